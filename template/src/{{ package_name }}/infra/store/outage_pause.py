"""The pause of claims after a decision failed because the database was unavailable."""

import time

from ...core.units import Seconds

FIRST_DECISION_PAUSE: Seconds = 0.5
MAX_DECISION_PAUSE: Seconds = 30.0  # each failed decision may have paid for its model


class OutagePause:
    """Doubles the pause while failures follow each other."""

    def __init__(self) -> None:
        self._pause = FIRST_DECISION_PAUSE
        self._until = 0.0

    def next_pause(self) -> Seconds:
        """Return how many seconds to pause; failures during a pause count as one."""
        now = time.monotonic()
        if now < self._until:
            return self._until - now
        follows = now < self._until + MAX_DECISION_PAUSE
        self._pause = min(self._pause * 2, MAX_DECISION_PAUSE) if follows else FIRST_DECISION_PAUSE
        self._until = now + self._pause
        return self._pause
