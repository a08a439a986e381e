"""The operator's statements: queue statistics, dead letters, pruning, subscriptions."""

import json
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from ...core.units import Seconds
from ..database import Fetch, Row
from .claim import IS_PENDING, NEW_FENCE
from .dead_letters import MATCHES_FILTER, DeadLetterFilter

PRUNE_CHUNK = 5_000  # events a transaction, so that none blocks others for long

# The new fence invalidates the token of a worker that still has the delivery.
RETRY = f"""
UPDATE deliveries d
   SET dead_at = NULL, lease = NULL, attempts = 0, due_at = 'epoch',
       fence = {NEW_FENCE}
  FROM events e
 WHERE e.seq = d.seq AND {MATCHES_FILTER}
RETURNING e.id
"""  # noqa: S608 - interpolates constant SQL only

COUNT_DEAD = f"""
SELECT count(*) AS count
  FROM deliveries d JOIN events e ON e.seq = d.seq
 WHERE {MATCHES_FILTER}
"""  # noqa: S608 - interpolates constant SQL only

PURGE = f"""
DELETE FROM deliveries d USING events e
 WHERE e.seq = d.seq AND {MATCHES_FILTER}
RETURNING e.id
"""  # noqa: S608 - interpolates constant SQL only

# An event is kept while it has a delivery, held and dead ones included. An `agent.dropped` is kept while
# an event that it covers has a delivery for another subscriber: it is the source of that event's status.
PRUNABLE = """
  FROM events e
 WHERE e.recorded_at < now() - $1::float8 * interval '1 second'
   AND NOT EXISTS (SELECT FROM deliveries d WHERE d.seq = e.seq)
   AND (e.type <> 'agent.dropped' OR NOT EXISTS (
       SELECT FROM jsonb_array_elements_text(
              CASE jsonb_typeof(e.payload -> 'covers') WHEN 'array' THEN e.payload -> 'covers'
              ELSE '[]' END) AS c (id)
         JOIN events k ON k.id = c.id JOIN deliveries d ON d.seq = k.seq))
"""

COUNT_PRUNABLE = f"SELECT count(*) AS count {PRUNABLE}"

PRUNE = f"""
DELETE FROM events WHERE seq IN (SELECT e.seq {PRUNABLE} AND e.seq > $3 ORDER BY e.seq LIMIT $2)
RETURNING seq
"""  # noqa: S608 - interpolates constant SQL only

# Deletes scopes without held deliveries, notes or a recent action. Their version restarts at 0, so a
# context that was cached under the old version counts as changed.
PRUNE_SCOPES = """
DELETE FROM scopes s
 WHERE coalesce(s.last_action_at, '-infinity') < now() - $1::float8 * interval '1 second'
   AND s.scratch = '{}'
   AND NOT EXISTS (
       SELECT FROM deliveries d
        WHERE d.subscriber = s.subscriber AND d.scope = s.scope AND d.held_at IS NOT NULL)
"""

EXACT_COUNT_LIMIT = 10_000
"""The most deliveries of one kind that are counted exactly; a larger number is estimated."""

KINDS = {
    "pending": f"d.due_at = 'epoch' AND {IS_PENDING}",
    "waiting": f"d.due_at > 'epoch' AND {IS_PENDING}",
    "leased": "d.lease IS NOT NULL",
    "held": "d.held_at IS NOT NULL",
    "dead": "d.dead_at IS NOT NULL",
}
"""The SQL condition of each kind of delivery; each has a partial index."""


def _some(kind: str, order: str = "") -> str:
    return f"""(SELECT d.seq FROM deliveries d
               WHERE d.subscriber = s.name AND {KINDS[kind]} {order} LIMIT $1) AS found"""  # noqa: S608 - interpolates constant SQL only


# Reads indexes only, and at most `EXACT_COUNT_LIMIT` entries of each kind.
STATS = f"""
SELECT s.name AS subscriber, c.*,
       CASE WHEN e.seq IS NOT NULL THEN greatest(CASE WHEN isfinite(e.recorded_at) THEN
            extract(epoch FROM clock_timestamp() - e.recorded_at) END, 0)::float8
       END AS oldest_seconds
  FROM subscriptions s
 CROSS JOIN LATERAL (
       SELECT {", ".join(f"(SELECT count(*) FROM {_some(kind)}) AS {kind}" for kind in KINDS)},
              least((SELECT min(seq) FROM {_some("pending", "ORDER BY d.seq")}),
                    (SELECT min(seq) FROM {_some("waiting", "ORDER BY d.due_at")}),
                    (SELECT min(seq) FROM {_some("leased")})) AS first
       ) AS c
  LEFT JOIN events e ON e.seq = c.first
 ORDER BY s.name
"""  # noqa: S608 - interpolates constant SQL only

# The planner's row estimate, from the table's statistics and size.
ESTIMATE = "EXPLAIN (FORMAT JSON) SELECT FROM deliveries d WHERE d.subscriber = $1 AND {condition}"

COUNT_OTHER_WORKERS = """
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

TRANSACTION_ENDED = "SELECT pg_snapshot_xmin(pg_current_snapshot()) > $1::text::xid8 AS ended"

BACKFILL = """
INSERT INTO deliveries (subscriber, seq, scope)
SELECT s.name, e.seq, e.scope
  FROM subscriptions s
  JOIN events e ON (s.types IS NULL OR e.type = ANY (s.types)) AND e.type <> ALL (s.excluded)
 WHERE s.name = $1 AND e.recorded_at >= $2
    ON CONFLICT DO NOTHING
RETURNING seq
"""


class QueueStats(NamedTuple):
    """Counts of one subscriber's deliveries, and the age of the oldest unsettled one in seconds.

    Counts above `EXACT_COUNT_LIMIT` are estimates.
    """

    subscriber: str
    depth: int
    in_flight: int
    held: int
    dead: int
    oldest_seconds: Seconds | None


class DeliveryStatus(NamedTuple):
    """The status of one event's delivery to one subscriber."""

    subscriber: str
    status: str
    attempts: int
    error: str | None


async def retry_dead(fetch: Fetch, which: DeadLetterFilter) -> Sequence[Row]:
    """Make dead letters due now with no attempts spent; return the ids of their events."""
    return await fetch(RETRY, *which)


async def purge_dead(fetch: Fetch, which: DeadLetterFilter) -> Sequence[Row]:
    """Delete dead letters; return the ids of their events, which stay in the log."""
    return await fetch(PURGE, *which)


async def prune(fetch: Fetch, older_than: Seconds) -> AsyncIterator[int]:
    """Delete events older than `older_than` seconds that have no delivery; yield each chunk's count."""
    await fetch(PRUNE_SCOPES, older_than)
    last_seq = 0
    while rows := await fetch(PRUNE, older_than, PRUNE_CHUNK, last_seq):
        last_seq = max(row["seq"] for row in rows)
        yield len(rows)


async def stats(by_index: Fetch, fetch: Fetch) -> list[QueueStats]:
    """Return each subscriber's counts, by `by_index`; `fetch` must run with the planner's default settings."""
    return [await _stats(row, fetch) for row in await by_index(STATS, EXACT_COUNT_LIMIT)]


async def _stats(row: Row, fetch: Fetch) -> QueueStats:
    name = row["subscriber"]
    counts = {kind: row[kind] for kind in KINDS}
    for kind, count in counts.items():
        if count == EXACT_COUNT_LIMIT:
            [plan] = await fetch(ESTIMATE.format(condition=KINDS[kind]), name)
            estimate = json.loads(plan["QUERY PLAN"])[0]["Plan"]["Plan Rows"]
            counts[kind] = max(count, round(estimate))
    depth = counts["pending"] + counts["waiting"]
    rest = (counts["leased"], counts["held"], counts["dead"])
    return QueueStats(name, depth, *rest, row["oldest_seconds"])


async def status(fetch: Fetch, event_id: str) -> list[DeliveryStatus]:
    """Return the status of an event for each subscriber that subscribes to its type."""
    rows = await fetch(STATUS, event_id)
    return [DeliveryStatus(*(row[name] for name in DeliveryStatus._fields)) for row in rows]
