"""A circuit breaker: stop calling a dependency for a while after consecutive failures.

After a number of consecutive failures it opens, and rejects calls. After a pause it is half-open and
admits one call, whose result closes or opens it. Each consecutive pause is twice as long as the last.
Source: Michael Nygard, "Release It!", 2007.
"""

import random
import time
from typing import Literal

from ...core.units import Seconds
from ..waits import bounded

PROBE_DELAY: Seconds = 1.0  # for callers that arrive while the half-open call runs

type State = Literal["closed", "open", "half-open"]


class Unavailable(Exception):
    """A dependency is unavailable for now.

    A decision that fails with this spends no attempt of its events: they are due again in `retry_in`
    seconds, or after `MODEL_BREAKER_MAX_PAUSE` if that is less.
    """

    def __init__(self, reason: str, retry_in: Seconds) -> None:
        super().__init__(reason)
        self.retry_in = retry_in
        self.answers: int | None = None
        """The number of requests that succeeded before an invalid response; None for other failures."""


class CircuitBreaker:
    """Opens after `failures` consecutive failures, first for `pause` and at most for `max_pause` seconds."""

    def __init__(self, failures: int, pause: Seconds, max_pause: Seconds) -> None:
        self.error: str | None = None
        """The error of the last call; None after a success."""
        self._failures = failures
        self._pause = pause
        self._max_pause = max_pause
        self._failure_count = 0
        self._open_count = 0
        self._open_until: float | None = None
        self._probing = False

    @property
    def state(self) -> State:
        """Whether all calls are admitted, none, or one at a time."""
        if self._open_until is None:
            return "closed"
        return "open" if self.retry_in else "half-open"

    @property
    def retry_in(self) -> Seconds:
        """The seconds for which calls are still rejected."""
        return 0.0 if self._open_until is None else max(0.0, self._open_until - time.monotonic())

    def check(self) -> None:
        """Check that a call would be admitted.

        Raises:
            Unavailable: the breaker is open.
        """
        if self._open_until is not None and (self._probing or self.retry_in):
            raise Unavailable(
                self.error or "the circuit breaker is open", self.retry_in or PROBE_DELAY
            )

    def admit(self) -> None:
        """Admit a call, which must be followed by one of the `record_` methods.

        Raises:
            Unavailable: the breaker is open.
        """
        self.check()
        self._probing = self._open_until is not None

    def record_success(self) -> None:
        """Record a success and close the breaker."""
        self.error, self._open_until, self._probing = None, None, False
        self._failure_count = self._open_count = 0

    def record_cancelled(self) -> None:
        """Record a call that ended without a result, for example by cancellation."""
        self._probing = False

    def record_failure(
        self, error: str, retry_after: Seconds | None = None, *, at_once: bool = False
    ) -> Seconds:
        """Record a failure; return the seconds until the next call, at least `retry_after` if given.

        With `at_once`, the breaker opens after this failure.
        """
        if self.state == "open":
            return self.retry_in  # the call began before the breaker opened
        self.error = error
        self._failure_count += 1
        doubled = min(self._pause * 2 ** min(self._open_count, 30), self._max_pause)
        # The jitter keeps a fleet from retrying at the same time.
        pause = retry_after or doubled * random.uniform(0.5, 1.0)  # noqa: S311 - only jitter
        if at_once or self._open_until is not None or self._failure_count >= self._failures:
            return self.open(error, pause)
        return bounded(pause, self._max_pause)

    def open(self, error: str, pause: Seconds) -> Seconds:
        """Reject calls for `pause` seconds, at most `max_pause`; return the seconds."""
        pause = bounded(pause, self._max_pause)
        self.error, self._probing = error, False
        self._open_count += 1
        self._open_until = time.monotonic() + pause
        return pause
