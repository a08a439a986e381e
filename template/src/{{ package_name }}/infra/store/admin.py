"""What an operator does: look at the queue, retry or drop what died, prune the log."""

import json
from collections.abc import AsyncIterator
from datetime import datetime
from typing import NamedTuple

from ...core.types import Seconds
from ..database import Fetch, Row
from .claim import NEW_FENCE, PENDING
from .codec import aware

PRUNE_CHUNK = 5_000  # rows a transaction: long enough to be quick, short enough to block nobody

DEAD = """
SELECT d.seq, e.id, e.type, e.source, e.scope, e.timestamp, e.recorded_at, e.payload,
       e.headers AS meta, d.attempts, d.error, d.traceback, d.dead_at
  FROM deliveries d JOIN events e ON e.seq = d.seq
 WHERE d.subscriber = $1 AND d.dead_at IS NOT NULL
   AND ($2::text IS NULL OR e.id = $2)
 ORDER BY d.dead_at DESC, d.seq DESC
 LIMIT $3
"""

# A new fence: a worker that still holds the old one must not settle the retried delivery.
RETRY = f"""
UPDATE deliveries d
   SET dead_at = NULL, lease = NULL, attempts = 0, due_at = 'epoch',
       fence = {NEW_FENCE}
  FROM events e
 WHERE e.seq = d.seq AND d.subscriber = $1 AND d.dead_at IS NOT NULL
   AND ($2::text IS NULL OR e.id = $2)
RETURNING d.seq
"""  # noqa: S608 - no value goes in, only the expression of a fence

PURGE = """
DELETE FROM deliveries d USING events e
 WHERE e.seq = d.seq AND d.subscriber = $1 AND d.dead_at IS NOT NULL
   AND ($2::text IS NULL OR e.id = $2)
RETURNING d.seq
"""

# Never an event that has a delivery, held and dead ones included. Nor an `agent.dropped` while an
# event that it covers has a delivery for another subscriber and so stays: its status would be lost.
PRUNE = """
DELETE FROM events WHERE seq IN (
    SELECT e.seq FROM events e
     WHERE e.recorded_at < now() - $1::float8 * interval '1 second' AND e.seq > $3
       AND NOT EXISTS (SELECT FROM deliveries d WHERE d.seq = e.seq)
       AND (e.type <> 'agent.dropped' OR NOT EXISTS (
           SELECT FROM jsonb_array_elements_text(e.payload -> 'covers') AS c (id)
             JOIN events k ON k.id = c.id JOIN deliveries d ON d.seq = k.seq))
     ORDER BY e.seq
     LIMIT $2)
RETURNING seq
"""

# A scope that holds nothing, notes nothing and has not acted for so long is as if it never was: its
# version starts again, and who remembers the old one finds that it moved.
PRUNE_SCOPES = """
DELETE FROM scopes s
 WHERE coalesce(s.last_action_at, '-infinity') < now() - $1::float8 * interval '1 second'
   AND s.scratch = '{}'
   AND NOT EXISTS (
       SELECT FROM deliveries d
        WHERE d.subscriber = s.subscriber AND d.scope = s.scope AND d.held_at IS NOT NULL)
"""

COUNTED_MOST = 10_000
"""Deliveries of one kind that are counted one by one; beyond it their number is estimated."""

KINDS = {
    "pending": f"d.due_at = 'epoch' AND {PENDING}",
    "waiting": f"d.due_at > 'epoch' AND {PENDING}",
    "leased": "d.lease IS NOT NULL",
    "held": "d.held_at IS NOT NULL",
    "dead": "d.dead_at IS NOT NULL",
}
"""Conditions of the kinds of deliveries, each with an index of its own."""


def _some(kind: str, order: str = "") -> str:
    return f"""(SELECT d.seq FROM deliveries d
               WHERE d.subscriber = s.name AND {KINDS[kind]} {order} LIMIT $1) AS found"""  # noqa: S608 - no value goes in


# Bounded, whatever is held or has piled up, and by index alone.
STATS = f"""
SELECT s.name AS subscriber, c.*,
       greatest(extract(epoch FROM clock_timestamp() - e.recorded_at), 0)::float8 AS oldest_seconds
  FROM subscriptions s
 CROSS JOIN LATERAL (
       SELECT {", ".join(f"(SELECT count(*) FROM {_some(kind)}) AS {kind}" for kind in KINDS)},
              least((SELECT min(seq) FROM {_some("pending", "ORDER BY d.seq")}),
                    (SELECT min(seq) FROM {_some("waiting", "ORDER BY d.due_at")}),
                    (SELECT min(seq) FROM {_some("leased")})) AS first
       ) AS c
  LEFT JOIN events e ON e.seq = c.first
 ORDER BY s.name
"""  # noqa: S608 - no value goes in, only conditions

# The planner's own estimate, from the statistics and the size of the table.
ESTIMATE = "EXPLAIN (FORMAT JSON) SELECT FROM deliveries d WHERE d.subscriber = $1 AND {condition}"

CLAIMING = """
SELECT count(DISTINCT application_name)::int AS others
  FROM pg_stat_activity
 WHERE datname = current_database()
   AND starts_with(application_name, $1) AND application_name <> $2
"""

SUBSCRIBERS = "SELECT name FROM subscriptions ORDER BY name"

STATUS = """
SELECT subscriber, status, attempts, error FROM event_status WHERE id = $1 ORDER BY subscriber
"""

ADD_SUBSCRIPTION = """
INSERT INTO subscriptions (name, types, excluded) VALUES ($1, $2, $3)
    ON CONFLICT (name) DO UPDATE SET types = excluded.types, excluded = excluded.excluded
RETURNING pg_current_xact_id()::text AS tx, (xmax = 0) AS created
"""

ENDED = "SELECT pg_snapshot_xmin(pg_current_snapshot()) > $1::text::xid8 AS ended"

BACKFILL = """
INSERT INTO deliveries (subscriber, seq, scope)
SELECT s.name, e.seq, e.scope
  FROM subscriptions s
  JOIN events e ON (s.types IS NULL OR e.type = ANY (s.types)) AND e.type <> ALL (s.excluded)
 WHERE s.name = $1 AND e.recorded_at >= $2
    ON CONFLICT DO NOTHING
RETURNING seq
"""


class DeadLetter(NamedTuple):
    """A delivery that was given up, with the reason."""

    seq: int
    id: str
    type: str
    source: str
    scope: str
    timestamp: datetime
    recorded_at: datetime
    payload: str
    meta: str
    attempts: int
    error: str | None
    traceback: str | None
    dead_at: datetime


class QueueStats(NamedTuple):
    """What one subscriber is owed, in events, and the age of the oldest in seconds.

    Counts above `COUNTED_MOST` are estimates.
    """

    subscriber: str
    depth: int
    in_flight: int
    held: int
    dead: int
    oldest_seconds: Seconds | None


class DeliveryStatus(NamedTuple):
    """How far one event has come with one subscriber."""

    subscriber: str
    status: str
    attempts: int
    error: str | None


async def dead_letters(
    fetch: Fetch, subscriber: str, limit: int, event_id: str | None = None
) -> list[DeadLetter]:
    """Return the newest dead letters, or the one of an event."""
    rows = await fetch(DEAD, subscriber, event_id, limit)
    found = [DeadLetter(*(row[name] for name in DeadLetter._fields)) for row in rows]
    return [letter._replace(timestamp=aware(letter.timestamp)) for letter in found]


async def retry_dead(fetch: Fetch, subscriber: str, event_id: str | None) -> int:
    """Make one dead letter, or all, due at once with all its attempts; return how many."""
    return len(await fetch(RETRY, subscriber, event_id))


async def purge_dead(fetch: Fetch, subscriber: str, event_id: str | None) -> int:
    """Drop one dead letter, or all; the log keeps the events. Return how many."""
    return len(await fetch(PURGE, subscriber, event_id))


async def prune(fetch: Fetch, older_than: Seconds) -> AsyncIterator[int]:
    """Delete from the log what is old and owed to nobody; yield the count of each chunk."""
    await fetch(PRUNE_SCOPES, older_than)
    done = 0  # what lies behind need not be looked at again
    while rows := await fetch(PRUNE, older_than, PRUNE_CHUNK, done):
        done = max(row["seq"] for row in rows)
        yield len(rows)


async def stats(by_index: Fetch, fetch: Fetch) -> list[QueueStats]:
    """Return what each subscriber is owed. `by_index` counts; `fetch` may plan as it likes."""
    return [await _stats(row, fetch) for row in await by_index(STATS, COUNTED_MOST)]


async def _stats(row: Row, fetch: Fetch) -> QueueStats:
    name = row["subscriber"]
    counts = {kind: row[kind] for kind in KINDS}
    for kind, count in counts.items():
        if count == COUNTED_MOST:
            [plan] = await fetch(ESTIMATE.format(condition=KINDS[kind]), name)
            estimate = json.loads(plan["QUERY PLAN"])[0]["Plan"]["Plan Rows"]
            counts[kind] = max(count, round(estimate))
    depth = counts["pending"] + counts["waiting"]
    rest = (counts["leased"], counts["held"], counts["dead"])
    return QueueStats(name, depth, *rest, row["oldest_seconds"])


async def status(fetch: Fetch, event_id: str) -> list[DeliveryStatus]:
    """Return how far an event has come with each subscriber that it concerns."""
    rows = await fetch(STATUS, event_id)
    return [DeliveryStatus(*(row[name] for name in DeliveryStatus._fields)) for row in rows]
