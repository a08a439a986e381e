"""The database's time, which decides when deliveries are due."""

import time

from ...core.units import Seconds


class Clock:
    """Estimates the database's time from this machine's clock and the offset at the last claim."""

    def __init__(self) -> None:
        self.offset: Seconds = 0.0

    def set(self, database_time: Seconds) -> None:
        """Set the offset by the database's time now, in seconds since 1970."""
        self.offset = database_time - time.time()
