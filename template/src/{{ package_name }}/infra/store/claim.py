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


CLOCK_JUMP: Seconds = 600.0
"""A lease that ends so long after the longest that we give is of before a clock was set back."""


def expired(lease: str) -> str:
    """Return the condition that a lease ran out; `lease` is the parameter with its length in seconds."""
    return (
        "d.lease IS NOT NULL AND (d.due_at <= now()"
        f" OR d.due_at > now() + ({lease}::float8 + {CLOCK_JUMP}) * interval '1 second')"
    )


# The time of the claim in microseconds. Claims are not flushed to disk one by one: a server that crashes
# may forget the last ones, and would give out the numbers of a sequence again.
NEW_FENCE = "(SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)"

# Whatever the statistics say, these find each row by its key: with a join the planner, which believes an
# empty table, compares every delivery with every token. The tokens are sorted, so `width_bucket`
# finds a row's place among them by binary search.
OURS = """d.subscriber = $1 AND d.seq = ANY ($2::bigint[])
   AND d.fence = ($3::bigint[])[width_bucket(d.seq, $2::bigint[])]"""
LEASED = "coalesce(d.lease, '') <> ''"
"""Said like this, the planner cannot go by the index of what is leased and read all of that."""

# A delivery that was never given back is due at once, which does not depend on any clock, and those are
# claimed by `seq`. One that waits has a time and comes first when that is over: it is older.
PENDING = "d.lease IS NULL AND d.held_at IS NULL AND d.dead_at IS NULL"
WANTED = """($4::text[] IS NULL OR (SELECT e.type FROM events e WHERE e.seq = d.seq) = ANY ($4))
       AND ($5::text[] IS NULL OR d.scope <> ALL ($5))"""

# The rows are found by ctid: a join back by key makes the planner sort or scan the table when its
# statistics are stale, and for a queue they always are. SKIP LOCKED lets workers pass each other, but
# not within a scope: what comes behind a delivery that was skipped is not taken (`skipped`).
# `attempts` is counted here, so that a worker that dies has spent one.
CLAIM = f"""
WITH waited AS (
    SELECT d.ctid, d.seq, d.scope
      FROM deliveries d
     WHERE d.subscriber = $1 AND d.due_at > 'epoch' AND d.due_at <= now() AND {PENDING}
       AND {WANTED}
     ORDER BY d.due_at, d.seq
     LIMIT $2
       FOR UPDATE OF d SKIP LOCKED
), fresh AS (
    SELECT d.ctid, d.seq, d.scope
      FROM deliveries d
     WHERE d.subscriber = $1 AND d.due_at = 'epoch' AND {PENDING}
       AND {WANTED}
     ORDER BY d.seq
     LIMIT $2 - (SELECT count(*) FROM waited)
       FOR UPDATE OF d SKIP LOCKED
), skipped AS (
    SELECT d.scope, min(d.seq) AS seq
      FROM deliveries d
     WHERE d.subscriber = $1 AND d.due_at = 'epoch' AND {PENDING}
       AND {WANTED}
       AND d.seq < (SELECT max(seq) FROM fresh)
       AND d.seq NOT IN (SELECT seq FROM fresh)
     GROUP BY d.scope
), claimed AS (
    UPDATE deliveries d
       SET due_at = now() + $3::float8 * interval '1 second',
           attempts = attempts + 1, fence = {NEW_FENCE}, lease = 'shared'
     WHERE d.ctid = ANY (ARRAY (
           SELECT p.ctid FROM (SELECT * FROM waited UNION ALL SELECT * FROM fresh) AS p
            WHERE NOT EXISTS (SELECT FROM skipped s WHERE s.scope = p.scope AND s.seq < p.seq)))
    RETURNING d.seq, d.fence, d.attempts
)
SELECT {EVENT_COLUMNS}, c.fence, c.attempts
  FROM claimed c JOIN events e ON e.seq = c.seq
 ORDER BY e.seq
"""  # noqa: S608 - no value goes in, only the list of columns and conditions

# A lease that ran out means that its worker died or hung. Which of the events in its hand did that
# is not known, so each is taken alone from now on: dying alone is evidence, dying in company is not
# and costs no attempt.
CLAIM_ORPHAN = f"""
WITH picked AS (
    SELECT d.ctid
      FROM deliveries d
     WHERE d.subscriber = $1 AND {expired("$2")}
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
    RETURNING d.seq, d.fence, d.attempts
)
SELECT {EVENT_COLUMNS}, c.fence, c.attempts
  FROM claimed c JOIN events e ON e.seq = c.seq
"""  # noqa: S608 - no value goes in, only the list of columns

# What killed its worker once too often is dead, found by whoever looks next.
BURY = f"""
UPDATE deliveries d
   SET lease = NULL, dead_at = now(), fence = {NEW_FENCE},
       error = 'worker died: the process ended, or hung, while it handled this event'
 WHERE d.subscriber = $1 AND {expired("$3")} AND d.lease = 'alone' AND d.attempts >= $2
RETURNING d.seq
"""  # noqa: S608 - no value goes in, only conditions and the expression of a fence

ORPHANED = f"""
SELECT FROM deliveries d
 WHERE d.subscriber = $1 AND {expired("$3")}
   AND ($2::text[] IS NULL
        OR (SELECT e.type FROM events e WHERE e.seq = d.seq) = ANY ($2))
 LIMIT 1
"""  # noqa: S608 - no value goes in, only conditions

NEXT_DUE = f"""
SELECT extract(epoch FROM min(d.due_at) - now())::float8 AS seconds
  FROM deliveries d
 WHERE d.subscriber = $1 AND d.due_at > 'epoch' AND {PENDING}
"""  # noqa: S608 - no value goes in, only conditions

# It keeps its place: without a delay it is due at once, which is by `seq`.
HAND_BACK = f"""
UPDATE deliveries d
   SET lease = NULL, attempts = greatest(attempts - 1, 0), error = coalesce($5, error),
       due_at = CASE WHEN $4::float8 > 0 THEN now() + $4::float8 * interval '1 second'
                     ELSE 'epoch' END
 WHERE {OURS} AND {LEASED}
RETURNING d.seq, d.fence
"""  # noqa: S608 - no value goes in, only conditions

RENEW = f"""
UPDATE deliveries d
   SET due_at = now() + $4::float8 * interval '1 second'
 WHERE {OURS} AND {LEASED}
RETURNING d.seq, d.fence
"""  # noqa: S608 - no value goes in, only conditions


# A wait that is longer than any that we give: a clock was set back, or a version before 0.2 stored what
# a provider named, which may end in fifty years.
RECALL = f"""
UPDATE deliveries d
   SET due_at = now()
 WHERE d.subscriber = $1 AND d.due_at > now() + $2::float8 * interval '1 second'
   AND d.due_at > 'epoch' AND {PENDING}
RETURNING d.seq
"""  # noqa: S608 - no value goes in, only conditions


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
    buried = await fetch(BURY, subscriber, max_attempts, lease)
    counters.dead.add(len(buried))
    rows = await fetch(CLAIM_ORPHAN, subscriber, lease, types)
    counters.lease_expired.add(len(buried) + len(rows))
    return rows


def claimed_at(fence: int) -> float:
    """Return the database's time of a claim, in seconds since 1970."""
    return fence / 1_000_000


async def any_orphaned(
    fetch: Fetch, subscriber: str, types: list[str] | None, lease: Seconds
) -> bool:
    """Tell whether a lease ran out."""
    return bool(await fetch(ORPHANED, subscriber, types, lease))


async def next_due(fetch: Fetch, subscriber: str) -> Seconds | None:
    """Return how long until a waiting delivery falls due; None if none waits."""
    rows = await fetch(NEXT_DUE, subscriber)
    return rows[0]["seconds"]


async def hand_back(
    fetch: Fetch,
    subscriber: str,
    tokens: Iterable[Token],
    delay: Seconds,
    reason: str | None = None,
) -> set[int]:
    """Return deliveries unhandled, with the attempt that the claim counted.

    They keep their place in their scope. With a reason, later ones may overtake them while they wait.
    """
    return seqs(await fetch(HAND_BACK, subscriber, *columns(tokens), delay, reason))


async def recall(fetch: Fetch, subscriber: str, longest: Seconds) -> int:
    """Make due what would wait for more than `longest`; return how many deliveries."""
    return len(await fetch(RECALL, subscriber, longest))


async def renew(fetch: Fetch, subscriber: str, tokens: Iterable[Token], lease: Seconds) -> set[int]:
    """Extend leases and return the `seq` of those that still were this worker's."""
    return seqs(await fetch(RENEW, subscriber, *columns(tokens), lease))


def columns(tokens: Iterable[Token]) -> tuple[list[int], list[int]]:
    """Return what a statement that settles tokens takes.

    Sorted by `seq`, which the statements rely on; also, two of them cannot deadlock then.
    """
    in_order = sorted(tokens)
    return [token.seq for token in in_order], [token.fence for token in in_order]


def seqs(rows: Sequence[Row]) -> set[int]:
    """Return what the statement says was still this worker's."""
    return {row["seq"] for row in rows}
