"""Taking deliveries and settling them. Every statement names the fence that it acts under."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...core.types import Seconds
from ..database import Fetch, Row
from .codec import EVENT_COLUMNS


@dataclass(frozen=True, slots=True)
class Token:
    """The right to settle one delivery: good until the lease runs out and another takes it."""

    seq: int
    fence: int
    alone: bool = False
    """Nothing else is in this worker's hand, because a worker died holding this event."""


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
            OR EXISTS (SELECT FROM events e WHERE e.seq = d.seq AND e.type = ANY ($4)))
     ORDER BY d.due_at, d.seq
     LIMIT $2
       FOR UPDATE OF d SKIP LOCKED
), claimed AS (
    UPDATE deliveries d
       SET due_at = now() + $3::float8 * interval '1 second',
           attempts = attempts + 1, fence = nextval('delivery_fences'), lease = 'shared'
     WHERE d.ctid = ANY (ARRAY (SELECT ctid FROM picked))
    RETURNING d.seq, d.fence
)
SELECT {EVENT_COLUMNS}, c.fence, clock_timestamp() AS now
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
            OR EXISTS (SELECT FROM events e WHERE e.seq = d.seq AND e.type = ANY ($3)))
     ORDER BY d.due_at
     LIMIT 1
       FOR UPDATE OF d SKIP LOCKED
), claimed AS (
    UPDATE deliveries d
       SET due_at = now() + $2::float8 * interval '1 second',
           attempts = attempts + (d.lease = 'alone')::int,
           fence = nextval('delivery_fences'), lease = 'alone'
     WHERE d.ctid = ANY (ARRAY (SELECT ctid FROM picked))
    RETURNING d.seq, d.fence
)
SELECT {EVENT_COLUMNS}, c.fence, clock_timestamp() AS now
  FROM claimed c JOIN events e ON e.seq = c.seq
"""  # noqa: S608 - no value goes in, only the list of columns

# What killed its worker once too often is dead, found by whoever looks next.
BURY = """
UPDATE deliveries
   SET lease = NULL, dead_at = now(), fence = nextval('delivery_fences'),
       error = 'worker died: the process ended, or hung, while it handled this event'
 WHERE subscriber = $1 AND due_at <= now() AND lease = 'alone' AND attempts >= $2
RETURNING seq
"""

ORPHANED = """
SELECT FROM deliveries d
 WHERE d.subscriber = $1 AND d.due_at <= now() AND d.lease IS NOT NULL
   AND ($2::text[] IS NULL
        OR EXISTS (SELECT FROM events e WHERE e.seq = d.seq AND e.type = ANY ($2)))
 LIMIT 1
"""

NEXT_DUE = """
SELECT extract(epoch FROM min(due_at) - now())::float8 AS seconds
  FROM deliveries
 WHERE subscriber = $1 AND lease IS NULL AND held_at IS NULL AND dead_at IS NULL
"""

# The fence must match: a worker whose lease ran out changes nothing, whatever it says.
ACK = """
DELETE FROM deliveries d
 USING unnest($2::bigint[], $3::bigint[]) AS t (seq, fence)
 WHERE d.subscriber = $1 AND d.seq = t.seq AND d.fence = t.fence
RETURNING d.seq, d.fence
"""

# Doubling from the base delay up to the longest, less up to a half, so that retries spread out.
NACK = """
UPDATE deliveries d
   SET lease = NULL, error = $4, traceback = $5,
       due_at = now() + least($6::float8 * power(2, least(attempts, 30) - 1), $7::float8)
                        * (0.5 + random() / 2) * interval '1 second',
       dead_at = CASE WHEN attempts >= $8::bigint THEN now() END
 WHERE d.subscriber = $1 AND d.seq = $2 AND d.fence = $3
RETURNING d.dead_at IS NOT NULL AS dead, d.attempts
"""

HAND_BACK = """
UPDATE deliveries d
   SET lease = NULL, attempts = greatest(attempts - 1, 0),
       due_at = now() + $4::float8 * interval '1 second'
  FROM unnest($2::bigint[], $3::bigint[]) AS t (seq, fence)
 WHERE d.subscriber = $1 AND d.seq = t.seq AND d.fence = t.fence AND d.lease IS NOT NULL
RETURNING d.seq, d.fence
"""

RENEW = """
UPDATE deliveries d
   SET due_at = now() + $4::float8 * interval '1 second'
  FROM unnest($2::bigint[], $3::bigint[]) AS t (seq, fence)
 WHERE d.subscriber = $1 AND d.seq = t.seq AND d.fence = t.fence AND d.lease IS NOT NULL
RETURNING d.seq, d.fence
"""


@dataclass(frozen=True)
class Backoff:
    """How long a failed delivery waits, and how often it is tried."""

    base: Seconds
    longest: Seconds
    attempts: int


async def claim(
    fetch: Fetch, subscriber: str, limit: int, lease: Seconds, types: list[str] | None
) -> Sequence[Row]:
    """Take up to `limit` deliveries that are due, each with its event."""
    return await fetch(CLAIM, subscriber, limit, lease, types)


async def claim_orphan(
    fetch: Fetch, subscriber: str, lease: Seconds, types: list[str] | None, max_attempts: int
) -> Sequence[Row]:
    """Take one delivery whose worker fell silent, after burying those that killed too many."""
    await fetch(BURY, subscriber, max_attempts)
    return await fetch(CLAIM_ORPHAN, subscriber, lease, types)


async def any_orphaned(fetch: Fetch, subscriber: str, types: list[str] | None) -> bool:
    """Tell whether a lease ran out."""
    return bool(await fetch(ORPHANED, subscriber, types))


async def next_due(fetch: Fetch, subscriber: str) -> Seconds | None:
    """Return how long until a waiting delivery falls due; None if none waits."""
    rows = await fetch(NEXT_DUE, subscriber)
    return rows[0]["seconds"]


async def ack(fetch: Fetch, subscriber: str, tokens: Iterable[Token]) -> set[int]:
    """Delete what is done and return the `seq` of those that still were this worker's."""
    return _seqs(await fetch(ACK, subscriber, *_columns(tokens)))


async def nack(
    fetch: Fetch, subscriber: str, token: Token, error: str, traceback: str | None, backoff: Backoff
) -> bool | None:
    """Send a failed delivery to its retry; True if it died instead, None if it was not ours."""
    rows = await fetch(
        NACK,
        subscriber,
        token.seq,
        token.fence,
        error.replace("\x00", "\ufffd"),
        traceback and traceback.replace("\x00", "\ufffd"),
        backoff.base,
        backoff.longest,
        backoff.attempts,
    )
    return rows[0]["dead"] if rows else None


async def hand_back(
    fetch: Fetch, subscriber: str, tokens: Iterable[Token], delay: Seconds
) -> set[int]:
    """Return deliveries unhandled, with the attempt that the claim counted."""
    return _seqs(await fetch(HAND_BACK, subscriber, *_columns(tokens), delay))


async def renew(fetch: Fetch, subscriber: str, tokens: Iterable[Token], lease: Seconds) -> set[int]:
    """Extend leases and return the `seq` of those that still were this worker's."""
    return _seqs(await fetch(RENEW, subscriber, *_columns(tokens), lease))


def _columns(tokens: Iterable[Token]) -> tuple[list[int], list[int]]:
    # In one order for everybody: two statements that lock the same rows then cannot deadlock.
    in_order = sorted(tokens, key=lambda token: token.seq)
    return [token.seq for token in in_order], [token.fence for token in in_order]


def _seqs(rows: Sequence[Row]) -> set[int]:
    return {row["seq"] for row in rows}
