"""Taking deliveries, and keeping or giving back the lease. A new claim means a new fence."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ...core.types import Scope, Seconds
from ..database import Fetch, Row
from . import counters
from .codec import EVENT_COLUMNS


class Token(NamedTuple):
    """The right to settle one delivery: good until the lease runs out and another takes it."""

    seq: int
    fence: int
    alone: bool = False
    """Nothing else is in this worker's hand, because a worker died holding this event."""
    attempt: int = 1
    """How often the event was taken, this time included."""
    scope: Scope = ""
    """Whose memory the event belongs to; empty where that is not known."""


# The time of the claim in microseconds. Claims are not flushed to disk one by one: a server that crashes
# may forget the last ones, and would give out the numbers of a sequence again.
NEW_FENCE = "(SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)"

# The rows are found by ctid: a join back by key makes the planner sort or scan the table when its
# statistics are stale, and for a queue they always are. SKIP LOCKED lets workers pass each other.
# `attempts` is counted here, so that a worker that dies has spent one.
CLAIM = f"""
WITH picked AS (
    SELECT d.ctid
      FROM deliveries d
     WHERE d.subscriber = $1 AND d.due_at <= now()
       AND d.lease IS NULL AND d.held_at IS NULL AND d.dead_at IS NULL
       AND ($4::text[] IS NULL
            OR (SELECT e.type FROM events e WHERE e.seq = d.seq) = ANY ($4))
       AND ($5::text[] IS NULL OR d.scope <> ALL ($5))
     ORDER BY d.due_at, d.seq
     LIMIT $2
       FOR UPDATE OF d SKIP LOCKED
), claimed AS (
    UPDATE deliveries d
       SET due_at = now() + $3::float8 * interval '1 second',
           attempts = attempts + 1, fence = {NEW_FENCE}, lease = 'shared'
     WHERE d.ctid = ANY (ARRAY (SELECT ctid FROM picked))
    RETURNING d.seq, d.fence, d.attempts
)
SELECT {EVENT_COLUMNS}, c.fence, c.attempts
  FROM claimed c JOIN events e ON e.seq = c.seq
 ORDER BY e.timestamp, e.seq
"""  # noqa: S608 - no value goes in, only the list of columns

# A lease that ran out means that its worker died or hung. Which of the events in its hand did that
# is not known, so each is taken alone from now on: dying alone is evidence, dying in company is not
# and costs no attempt.
CLAIM_ORPHAN = f"""
WITH picked AS (
    SELECT d.ctid
      FROM deliveries d
     WHERE d.subscriber = $1 AND d.due_at <= now() AND d.lease IS NOT NULL
       AND ($3::text[] IS NULL
            OR (SELECT e.type FROM events e WHERE e.seq = d.seq) = ANY ($3))
     ORDER BY d.due_at
     LIMIT 1
       FOR UPDATE OF d SKIP LOCKED
), claimed AS (
    UPDATE deliveries d
       SET due_at = now() + $2::float8 * interval '1 second',
           attempts = attempts + (d.lease = 'alone')::int,
           fence = {NEW_FENCE}, lease = 'alone'
     WHERE d.ctid = ANY (ARRAY (SELECT ctid FROM picked))
    RETURNING d.seq, d.fence, d.attempts
)
SELECT {EVENT_COLUMNS}, c.fence, c.attempts
  FROM claimed c JOIN events e ON e.seq = c.seq
"""  # noqa: S608 - no value goes in, only the list of columns

# What killed its worker once too often is dead, found by whoever looks next.
BURY = f"""
UPDATE deliveries
   SET lease = NULL, dead_at = now(), fence = {NEW_FENCE},
       error = 'worker died: the process ended, or hung, while it handled this event'
 WHERE subscriber = $1 AND due_at <= now() AND lease = 'alone' AND attempts >= $2
RETURNING seq
"""  # noqa: S608 - no value goes in, only the expression of a fence

ORPHANED = """
SELECT FROM deliveries d
 WHERE d.subscriber = $1 AND d.due_at <= now() AND d.lease IS NOT NULL
   AND ($2::text[] IS NULL
        OR (SELECT e.type FROM events e WHERE e.seq = d.seq) = ANY ($2))
 LIMIT 1
"""

NEXT_DUE = """
SELECT extract(epoch FROM min(due_at) - now())::float8 AS seconds
  FROM deliveries
 WHERE subscriber = $1 AND lease IS NULL AND held_at IS NULL AND dead_at IS NULL
"""

# Said like this, the planner cannot go by the index of what is leased: it would read all of that
# for each token instead of the one row that the token names.
HAND_BACK = """
UPDATE deliveries d
   SET lease = NULL, attempts = greatest(attempts - 1, 0),
       due_at = now() + $4::float8 * interval '1 second'
  FROM unnest($2::bigint[], $3::bigint[]) AS t (seq, fence)
 WHERE d.subscriber = $1 AND d.seq = t.seq AND d.fence = t.fence
   AND coalesce(d.lease, '') <> ''
RETURNING d.seq, d.fence
"""

RENEW = """
UPDATE deliveries d
   SET due_at = now() + $4::float8 * interval '1 second'
  FROM unnest($2::bigint[], $3::bigint[]) AS t (seq, fence)
 WHERE d.subscriber = $1 AND d.seq = t.seq AND d.fence = t.fence
   AND coalesce(d.lease, '') <> ''
RETURNING d.seq, d.fence
"""


# Versions before 0.2 stored waits as providers named them, some of which end in fifty years.
RECALL = """
UPDATE deliveries
   SET due_at = now()
 WHERE subscriber = $1 AND due_at > now() + $2::float8 * interval '1 second'
   AND lease IS NULL AND held_at IS NULL AND dead_at IS NULL
RETURNING seq
"""


async def claim(
    fetch: Fetch,
    subscriber: str,
    limit: int,
    lease: Seconds,
    types: list[str] | None,
    avoided: list[Scope] | None = None,
) -> Sequence[Row]:
    """Take up to `limit` deliveries that are due, each with its event; none of the scopes to avoid."""
    return await fetch(CLAIM, subscriber, limit, lease, types, avoided)


async def claim_orphan(
    fetch: Fetch, subscriber: str, lease: Seconds, types: list[str] | None, max_attempts: int
) -> Sequence[Row]:
    """Take one delivery whose worker fell silent, after burying those that killed too many."""
    buried = await fetch(BURY, subscriber, max_attempts)
    counters.dead.add(len(buried))
    rows = await fetch(CLAIM_ORPHAN, subscriber, lease, types)
    counters.lease_expired.add(len(buried) + len(rows))
    return rows


def claimed_at(fence: int) -> float:
    """Return the database's time of a claim, in seconds since 1970."""
    return fence / 1_000_000


async def any_orphaned(fetch: Fetch, subscriber: str, types: list[str] | None) -> bool:
    """Tell whether a lease ran out."""
    return bool(await fetch(ORPHANED, subscriber, types))


async def next_due(fetch: Fetch, subscriber: str) -> Seconds | None:
    """Return how long until a waiting delivery falls due; None if none waits."""
    rows = await fetch(NEXT_DUE, subscriber)
    return rows[0]["seconds"]


async def hand_back(
    fetch: Fetch, subscriber: str, tokens: Iterable[Token], delay: Seconds
) -> set[int]:
    """Return deliveries unhandled, with the attempt that the claim counted."""
    return seqs(await fetch(HAND_BACK, subscriber, *columns(tokens), delay))


async def recall(fetch: Fetch, subscriber: str, longest: Seconds) -> int:
    """Make due what would wait for more than `longest`; return how many deliveries."""
    return len(await fetch(RECALL, subscriber, longest))


async def renew(fetch: Fetch, subscriber: str, tokens: Iterable[Token], lease: Seconds) -> set[int]:
    """Extend leases and return the `seq` of those that still were this worker's."""
    return seqs(await fetch(RENEW, subscriber, *columns(tokens), lease))


def columns(tokens: Iterable[Token]) -> tuple[list[int], list[int]]:
    """Return what a statement that settles tokens takes.

    In one order for everybody: two statements that lock the same rows then cannot deadlock.
    """
    in_order = sorted(tokens)
    return [token.seq for token in in_order], [token.fence for token in in_order]


def seqs(rows: Sequence[Row]) -> set[int]:
    """Return what the statement says was still this worker's."""
    return {row["seq"] for row in rows}
