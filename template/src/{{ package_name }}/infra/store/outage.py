"""How long to claim nothing after a decision met an unavailable database."""

import time

from ...core.types import Seconds

FIRST_PAUSE: Seconds = 0.5
LONGEST_PAUSE: Seconds = 30.0  # a decision that fails at its end has paid for its model


class Outage:
    """Doubles the pause as long as failures follow each other."""

    def __init__(self) -> None:
        self._pause = FIRST_PAUSE
        self._until = 0.0

    def pause(self) -> Seconds:
        """Return how long to pause; all that fails during a pause counts once."""
        now = time.monotonic()
        if now < self._until:
            return self._until - now
        follows = now < self._until + LONGEST_PAUSE
        self._pause = min(self._pause * 2, LONGEST_PAUSE) if follows else FIRST_PAUSE
        self._until = now + self._pause
        return self._pause
