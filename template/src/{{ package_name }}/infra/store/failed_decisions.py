"""The decisions of this process that failed of late, by scope, for people to read.

The queue stores why a delivery failed, but not why it was deferred: an outage leaves only the time of the next attempt.
"""

import time
from datetime import UTC, datetime
from typing import NamedTuple

from ...core.units import Scope, Seconds

MAX_SCOPES = 1_000
KEPT: Seconds = 3_600.0  # after the last failure


class FailedDecision(NamedTuple):
    """The failures of one scope's decisions since its last action."""

    scope: Scope
    reason: str
    """The reason of the last one."""
    since: datetime
    """When the first one failed."""
    at: datetime
    """When the last one failed."""
    retry_at: datetime | None
    """When it is tried again; None if the queue stores that."""


class FailedDecisions:
    """Keeps the failures of each scope until it acts, drops events, or an hour passed."""

    def __init__(self) -> None:
        self._failed: dict[Scope, FailedDecision] = {}

    def add(self, scope: Scope, reason: str, retry_in: Seconds | None = None) -> None:
        """Record a failure, which is tried again in `retry_in` seconds if an outage is its cause."""
        now = time.time()
        known = self.of(scope)
        self._failed.pop(scope, None)
        if len(self._failed) >= MAX_SCOPES:
            del self._failed[next(iter(self._failed))]
        at = datetime.fromtimestamp(now, UTC)
        retry_at = None if retry_in is None else datetime.fromtimestamp(now + retry_in, UTC)
        since = known.since if known else at
        self._failed[scope] = FailedDecision(scope, reason, since, at, retry_at)

    def end(self, scope: Scope) -> None:
        """Record that a decision of a scope succeeded."""
        self._failed.pop(scope, None)

    def of(self, scope: Scope) -> FailedDecision | None:
        """Return the failures of a scope; None if its last decision succeeded."""
        found = self._failed.get(scope)
        return found if found is not None and _age(found) < KEPT else None

    def waiting(self) -> list[FailedDecision]:
        """Return the failures whose cause is an outage, those of the longest time first."""
        found = [
            each
            for each in self._failed.values()
            if each.retry_at is not None and _age(each) < KEPT
        ]
        return sorted(found, key=lambda each: each.since)


def _age(failed: FailedDecision) -> Seconds:
    return time.time() - failed.at.timestamp()
