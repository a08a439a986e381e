"""When the next retried or deferred delivery of a subscriber is due."""

import math
import time

from ...core.units import Seconds
from ..database import Fetch
from .claim import IS_PENDING

DUE_CACHE_TIME: Seconds = 1.0  # then it is queried again, since other workers add retries

NEXT_DUE = f"""
SELECT extract(epoch FROM min(d.due_at) - now())::float8 AS seconds
  FROM deliveries d
 WHERE d.subscriber = $1 AND d.due_at > 'epoch' AND {IS_PENDING}
"""  # noqa: S608 - interpolates constant SQL only


class NextDue:
    """Queries when the next delivery is due, and caches the answer for `DUE_CACHE_TIME`.

    The cache ends earlier once that delivery is due, after `forget`, and after one fallback check.
    """

    def __init__(self, fetch: Fetch, subscriber: str, fallback: Seconds) -> None:
        self._fetch = fetch
        self._subscriber = subscriber
        self._cache_time = min(DUE_CACHE_TIME, fallback)
        self._due: float | None = None
        """The answer, as of `_asked`; both on this process's monotonic clock."""
        self._asked = -math.inf

    def forget(self) -> None:
        """Drop the cache, since a delivery of this process goes back to the queue."""
        self._asked = -math.inf

    async def get(self) -> float | None:
        """Return when it is due, on this process's monotonic clock; None if there is none."""
        now = time.monotonic()
        passed = self._due is not None and now >= self._due
        if passed or now >= self._asked + self._cache_time:
            self._asked = now
            seconds = await next_due(self._fetch, self._subscriber)
            self._due = None if seconds is None else now + seconds
        return self._due


async def next_due(fetch: Fetch, subscriber: str) -> Seconds | None:
    """Return the seconds until the next retried or deferred delivery is due; None if there is none."""
    rows = await fetch(NEXT_DUE, subscriber)
    return rows[0]["seconds"]
