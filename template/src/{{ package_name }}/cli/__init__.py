"""The command line: run the service, migrate its database, publish and read events, look after its queue.

Exit codes: 0 when it worked, 1 when it did not, which one sentence explains, 2 for wrong usage, 130 when interrupted.
"""

import sys

from ..infra.collector import resting_collector
from ..infra.streams import open_streams
from .quiet import SERVICES, keep_telemetry_out


def main() -> None:
    """Run the command line."""
    open_streams()
    if SERVICES.isdisjoint(sys.argv[1:2]):
        keep_telemetry_out()
    with resting_collector():
        from .commands import run

    run()
