"""The entry point of the command line; it loads the commands as late as it can."""

import sys

from ..infra.process.gc_tuning import paused_gc
from ..infra.process.streams import configure_streams
from .lazy_logfire import SERVICE_COMMANDS, defer_logfire

INTERRUPTED = 130  # the exit code of a process that SIGINT ended, as in a shell


def main() -> None:
    """Run the command line."""
    configure_streams()
    if SERVICE_COMMANDS.isdisjoint(sys.argv[1:2]):
        defer_logfire()
    try:
        with paused_gc():
            from .commands import run

        run()
    except KeyboardInterrupt:  # before a command began; a running command handles its own
        raise SystemExit(INTERRUPTED) from None
