"""Circuit breaker: what is away is left alone for a while instead of being asked again and again.

After enough failures in a row it opens, and calls are refused without being made. When its pause is
over one call is let through, half-open; whether that succeeds decides. Each pause in a row is twice
as long as the last. The pattern is Michael Nygard's ("Release It!", 2007).
"""

import random
import time
from typing import Literal

from ..core.types import Seconds
from .waits import bounded

PROBE_PAUSE: Seconds = 1.0  # for who comes while another tries whether things are well again

type State = Literal["closed", "open", "half-open"]


class Unavailable(Exception):
    """Something outside cannot do its part now. It is nobody's fault, and worth waiting for.

    A decision that fails with this costs its events no attempt: they come again in `retry_in` seconds,
    or after `MODEL_BREAKER_MAX_PAUSE` if that is less.
    """

    def __init__(self, reason: str, retry_in: Seconds) -> None:
        super().__init__(reason)
        self.retry_in = retry_in
        self.answers: int | None = None
        """How many requests were answered before one got no answer; None of all other failures."""


class CircuitBreaker:
    """Opens after `failures` in a row, first for `pause` seconds and never for more than `longest`."""

    def __init__(self, failures: int, pause: Seconds, longest: Seconds) -> None:
        self.error: str | None = None
        """Why the last call failed; None once one has succeeded."""
        self._failures = failures
        self._pause = pause
        self._longest = longest
        self._failed = 0
        self._opened = 0
        self._until: float | None = None
        self._probing = False

    @property
    def state(self) -> State:
        """Whether calls are made, refused, or made one at a time to see how things are."""
        if self._until is None:
            return "closed"
        return "open" if self.retry_in else "half-open"

    @property
    def retry_in(self) -> Seconds:
        """How long calls are still refused."""
        return 0.0 if self._until is None else max(0.0, self._until - time.monotonic())

    def check(self) -> None:
        """Go on if a call would be let through.

        Raises:
            Unavailable: it is open.
        """
        if self._until is not None and (self._probing or self.retry_in):
            raise Unavailable(self.error or "it is open", self.retry_in or PROBE_PAUSE)

    def admit(self) -> None:
        """Let a call through, whose end must be told by `succeeded`, `failed` or `abandoned`.

        Raises:
            Unavailable: it is open.
        """
        self.check()
        self._probing = self._until is not None

    def succeeded(self) -> None:
        """Close: the other side answers."""
        self.error, self._until, self._probing = None, None, False
        self._failed = self._opened = 0

    def abandoned(self) -> None:
        """Note that a call ended without telling anything about the other side."""
        self._probing = False

    def failed(
        self, error: str, retry_after: Seconds | None = None, *, at_once: bool = False
    ) -> Seconds:
        """Note a failure, and return for how long to leave the other side alone, or as it asks.

        With `at_once` it opens without waiting for more failures.
        """
        if self.state == "open":
            return self.retry_in  # begun before it opened
        self.error = error
        self._failed += 1
        doubled = min(self._pause * 2 ** min(self._opened, 30), self._longest)
        # Less up to a half, so that a fleet does not come back all at once.
        pause = retry_after or doubled * random.uniform(0.5, 1.0)  # noqa: S311 - only jitter
        if at_once or self._until is not None or self._failed >= self._failures:
            return self.open(error, pause)
        return bounded(pause, self._longest)

    def open(self, error: str, pause: Seconds) -> Seconds:
        """Refuse calls for so long, `longest` at most; return for how long."""
        pause = bounded(pause, self._longest)
        self.error, self._probing = error, False
        self._opened += 1
        self._until = time.monotonic() + pause
        return pause
