"""Counts deliveries by kind, and reads the status of one event."""

import json
from datetime import datetime
from typing import NamedTuple

from ...core.units import Seconds
from ..database import Fetch, Row
from .claim import IS_PENDING
from .codec import ERASED
from .journal import UNFINISHED

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


# Reads indexes only, and one more than `EXACT_COUNT_LIMIT` entries of each kind ($1).
STATS = f"""
SELECT s.name AS subscriber, c.*,
       CASE WHEN e.seq IS NOT NULL THEN greatest(CASE WHEN isfinite(e.recorded_at) THEN
            extract(epoch FROM clock_timestamp() - e.recorded_at) END, 0)::float8
       END AS oldest_seconds,
       (SELECT count(*) {UNFINISHED} WHERE p.subscriber = s.name) AS pinned,
       pg_total_relation_size('journal') AS journal_bytes, s.paused_at, s.paused_by
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

STATUS = f"""
SELECT s.subscriber, CASE WHEN s.status = 'completed' AND e.headers ? '{ERASED}' THEN 'erased'
       ELSE s.status END AS status, s.attempts, s.error
  FROM event_status s JOIN events e USING (id)
 WHERE id = $1
 ORDER BY s.subscriber
"""  # noqa: S608 - interpolates constant SQL only

COUNT_OTHER_WORKERS = """
SELECT count(DISTINCT application_name)::int AS others
  FROM pg_stat_activity
 WHERE datname = current_database()
   AND starts_with(application_name, $1) AND application_name <> $2
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
    pinned: int = 0
    """Scopes with an unfinished decision, of which results are recorded."""
    journal_bytes: int = 0
    """The size of the journal of all subscribers together."""
    paused_at: datetime | None = None
    """When an operator paused it; None if it is not paused."""
    paused_by: str | None = None
    """The operator."""


class DeliveryStatus(NamedTuple):
    """The status of one event's delivery to one subscriber."""

    subscriber: str
    status: str
    attempts: int
    error: str | None


async def stats(by_index: Fetch, fetch: Fetch) -> list[QueueStats]:
    """Return each subscriber's counts, by `by_index`; `fetch` must run with the planner's default settings."""
    return [await _stats(row, fetch) for row in await by_index(STATS, EXACT_COUNT_LIMIT + 1)]


async def _stats(row: Row, fetch: Fetch) -> QueueStats:
    name = row["subscriber"]
    counts = {kind: row[kind] for kind in KINDS}
    for kind, count in counts.items():
        if count > EXACT_COUNT_LIMIT:
            [plan] = await fetch(ESTIMATE.format(condition=KINDS[kind]), name)
            estimate = json.loads(plan["QUERY PLAN"])[0]["Plan"]["Plan Rows"]
            counts[kind] = max(count, round(estimate))
    depth = counts["pending"] + counts["waiting"]
    rest = (counts["leased"], counts["held"], counts["dead"])
    journal = (row["pinned"], row["journal_bytes"])
    pause = (row["paused_at"], row["paused_by"])
    return QueueStats(name, depth, *rest, row["oldest_seconds"], *journal, *pause)


async def status(fetch: Fetch, event_id: str) -> list[DeliveryStatus]:
    """Return the status of an event for each subscriber that subscribes to its type."""
    rows = await fetch(STATUS, event_id)
    return [DeliveryStatus(*(row[name] for name in DeliveryStatus._fields)) for row in rows]
