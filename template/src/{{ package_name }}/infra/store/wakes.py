"""Evaluates scopes again whose trigger waited: their newest held delivery goes back to the queue.

So a wait ends like any other delivery begins: a worker claims it, under a lease and in its place within the scope. It
counts as admitted, so the filter is not asked again, and its attempts start anew.
"""

import time

from ..database import Fetch
from .claim import NEW_FENCE, Token
from .pausing import IS_PAUSED
from .requeues import Requeues

MAX_WOKEN = 100  # scopes that one statement wakes

# Locks the scopes before their deliveries, as all transactions do. `newest` finds one row of the index of held
# deliveries for each scope. The new version shows cached contexts that an event has left them. `seconds` is when the next
# wait ends; null if none does. A scope that another transaction has locked is looked at again after the interval, and so is
# one with an unfinished decision, unless its event is dead or gone.
WAKE = f"""
WITH due AS (
    SELECT s.ctid
      FROM scopes s
     WHERE s.subscriber = $1 AND s.wake_at <= now() AND NOT {IS_PAUSED}
       AND NOT EXISTS (
           SELECT FROM decisions p JOIN deliveries d ON d.subscriber = $1 AND d.seq = p.seq
            WHERE p.subscriber = $1 AND p.scope = s.scope AND d.held_at IS NULL AND d.dead_at IS NULL)
     ORDER BY s.wake_at
     LIMIT $2
       FOR UPDATE SKIP LOCKED
), woken AS (
    UPDATE scopes s
       SET wake_at = NULL, version = version + 1
     WHERE s.ctid = ANY (ARRAY (SELECT ctid FROM due))
    RETURNING s.scope
), newest AS (
    SELECT h.ctid
      FROM woken w
     CROSS JOIN LATERAL (
           SELECT d.ctid
             FROM deliveries d
            WHERE d.subscriber = $1 AND d.scope = w.scope AND d.held_at IS NOT NULL
            ORDER BY d.seq DESC
            LIMIT 1) AS h
), requeued AS (
    UPDATE deliveries d
       SET held_at = NULL, due_at = 'epoch', attempts = 0, admitted = true, fence = {NEW_FENCE}
     WHERE d.ctid = ANY (ARRAY (SELECT ctid FROM newest)) AND d.held_at IS NOT NULL
    RETURNING d.seq, d.fence, d.scope
)
SELECT (SELECT count(*) FROM woken) AS woken,
       (SELECT extract(epoch FROM min(s.wake_at) - now())::float8
          FROM scopes s WHERE s.subscriber = $1 AND s.wake_at > now()) AS seconds,
       r.seq, r.fence, r.scope
  FROM (VALUES (1)) AS one LEFT JOIN requeued r ON true
"""  # noqa: S608 - interpolates constant SQL only

WAKE_AGAIN = "UPDATE scopes SET wake_at = now() WHERE subscriber = $1 AND scope = $2"


class Wakes:
    """Ends the waits of one subscriber's scopes, at most one look each `interval` seconds and at each known end."""

    def __init__(self, fetch: Fetch, subscriber: str, requeues: Requeues, interval: float) -> None:
        self._fetch = fetch
        self._subscriber = subscriber
        self._requeues = requeues
        self._interval = interval
        self.next_at = 0.0
        """When to look next, on this process's monotonic clock."""

    async def look(self) -> bool:
        """End the waits whose time has passed, if it is time to look; return whether a delivery became claimable."""
        if (now := time.monotonic()) < self.next_at:
            return False
        self.next_at = now + self._interval
        rows = await self._fetch(WAKE, self._subscriber, MAX_WOKEN)
        for row in rows:
            if row["seq"] is not None:
                self._requeues.note(Token(row["seq"], row["fence"], scope=row["scope"]))
        if rows[0]["woken"] == MAX_WOKEN:
            self.next_at = now
        elif (seconds := rows[0]["seconds"]) is not None:
            self.next_at = min(self.next_at, now + seconds)
        return rows[0]["seq"] is not None
