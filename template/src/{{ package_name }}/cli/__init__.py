"""The command line: run the service, migrate its database, publish and read events, manage its queue.

Exit codes: 0 for success, 1 for a failure, with one sentence on standard error, 2 for wrong usage, 130 for an interrupt.
"""

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
