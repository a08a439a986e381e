"""Claims deliveries whose lease expired, each alone, and dead-letters poison events: those that kill their worker."""

import time
from collections.abc import Sequence

from ...core.units import Seconds
from ..database import Fetch, Row
from ..telemetry import counters
from .claim import NEW_FENCE, end_overlong_waits, expired
from .codec import EVENT_COLUMNS
from .consumer_config import ConsumerConfig
from .pausing import IS_PAUSED

# An expired lease means that its worker died or hung. Any of its events in flight may be the cause, so each
# is claimed alone from now on. Only a lease that expires again while alone counts as an attempt.
CLAIM_EXPIRED = f"""
WITH picked AS (
    SELECT d.ctid
      FROM deliveries d
     WHERE d.subscriber = $1 AND {expired("$2")} AND NOT {IS_PAUSED}
       AND ($3::text[] IS NULL
            OR (SELECT e.type FROM events e WHERE e.seq = d.seq) = ANY ($3))
     ORDER BY d.seq
     LIMIT 1
       FOR UPDATE OF d SKIP LOCKED
), claimed AS (
    UPDATE deliveries d
       SET due_at = now() + $2::float8 * interval '1 second',
           attempts = attempts + (d.lease = 'alone')::int,
           fence = {NEW_FENCE}, lease = 'alone'
     WHERE d.ctid = ANY (ARRAY (SELECT ctid FROM picked))
    RETURNING d.seq, d.fence, d.attempts, d.admitted
)
SELECT {EVENT_COLUMNS}, c.fence, c.attempts, c.admitted
  FROM claimed c JOIN events e ON e.seq = c.seq
"""  # noqa: S608 - interpolates constant SQL only

# Dead-letters poison events: their lease expired while they were alone, and their attempts are spent. What else is
# held in a scope that was evaluated again is evaluated without them.
DEAD_LETTER_POISON = f"""
WITH poison AS (
    UPDATE deliveries d
       SET lease = NULL, dead_at = now(), fence = {NEW_FENCE},
           error = 'worker died: the process ended, or hung, while it handled this event'
     WHERE d.subscriber = $1 AND {expired("$3")} AND d.lease = 'alone' AND d.attempts >= $2
       AND NOT {IS_PAUSED}
    RETURNING d.seq, d.scope, d.admitted
), woken AS (
    UPDATE scopes s SET wake_at = now()
      FROM poison p WHERE p.admitted AND s.subscriber = $1 AND s.scope = p.scope
)
SELECT seq FROM poison
"""  # noqa: S608 - interpolates constant SQL only

EXPIRED_LEASES = f"""
SELECT FROM deliveries d
 WHERE d.subscriber = $1 AND {expired("$3")} AND NOT {IS_PAUSED}
   AND ($2::text[] IS NULL
        OR (SELECT e.type FROM events e WHERE e.seq = d.seq) = ANY ($2))
 LIMIT 1
"""  # noqa: S608 - interpolates constant SQL only


class ExpiredLeases:
    """Looks for expired leases once per fallback check."""

    def __init__(
        self, fetch: Fetch, config: ConsumerConfig, lease: Seconds, fallback: Seconds
    ) -> None:
        self._fetch = fetch
        self._config = config
        self._lease = lease
        self._fallback = fallback
        self._next_look = 0.0
        self.found = False
        """Whether there may be expired leases to claim."""

    async def look(self) -> bool:
        """Look for expired leases, and end overlong waits; return whether deliveries became claimable."""
        now = time.monotonic()
        if self.found or now < self._next_look:
            return False
        self._next_look = now + self._fallback
        subscriber, types = self._config.subscriber, self._config.types
        longest = self._config.longest_wait
        recalled = await end_overlong_waits(self._fetch, subscriber, longest)
        self.found = await any_expired(self._fetch, subscriber, types, self._lease)
        return self.found or bool(recalled)

    async def claim(self) -> Sequence[Row]:
        """Claim one of them, to be handled alone; return no row if there is none left."""
        rows = await claim_expired(
            self._fetch,
            self._config.subscriber,
            self._lease,
            self._config.types,
            self._config.backoff.attempts,
        )
        self.found = bool(rows)  # another worker may have been faster
        return rows


async def claim_expired(
    fetch: Fetch, subscriber: str, lease: Seconds, types: list[str] | None, max_attempts: int
) -> Sequence[Row]:
    """Claim one delivery whose lease expired, after dead-lettering the poison events."""
    poison = await fetch(DEAD_LETTER_POISON, subscriber, max_attempts, lease)
    counters.dead.add(len(poison))
    rows = await fetch(CLAIM_EXPIRED, subscriber, lease, types)
    counters.lease_expired.add(len(poison) + len(rows))
    return rows


async def any_expired(
    fetch: Fetch, subscriber: str, types: list[str] | None, lease: Seconds
) -> bool:
    """Return whether any lease has expired."""
    return bool(await fetch(EXPIRED_LEASES, subscriber, types, lease))
