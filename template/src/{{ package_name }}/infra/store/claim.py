"""Claims deliveries, renews their leases and releases them. Each claim sets a new fence."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ...core.units import Scope, Seconds
from ..database import Fetch, Row
from .codec import EVENT_COLUMNS
from .pausing import IS_PAUSED


class Token(NamedTuple):
    """The right to settle one delivery: valid until the lease expires and another worker claims it."""

    seq: int
    fence: int
    alone: bool = False
    """Whether it must be handled with nothing else in flight, because its last worker died or hung."""
    attempt: int = 1
    """How often the event was claimed, this claim included."""
    scope: Scope = ""
    """The scope of the event; empty if unknown."""
    admitted: bool = False
    """Whether the filter passed the event before: it was held, and its scope is evaluated again."""


CLOCK_JUMP: Seconds = 600.0
"""A lease that ends this long after the longest possible one was given before a clock was set back."""


def expired(lease: str) -> str:
    """Return the SQL condition of an expired lease; `lease` is the parameter of its length in seconds."""
    return (
        "d.lease IS NOT NULL AND (d.due_at <= now()"
        f" OR d.due_at > now() + ({lease}::float8 + {CLOCK_JUMP}) * interval '1 second')"
    )


# The fencing token: the time of the claim in microseconds. Claims commit asynchronously, so a server that
# crashes may lose the last ones, and a sequence would then repeat their numbers.
NEW_FENCE = "(SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)"

# Finds each row by its primary key, whatever the statistics are. With a join and the statistics of an
# empty table, the planner would compare every delivery with every token. The tokens are sorted, so
# `width_bucket` finds a row's position among them by binary search.
MATCHES_TOKENS = """d.subscriber = $1 AND d.seq = ANY ($2::bigint[])
   AND d.fence = ($3::bigint[])[width_bucket(d.seq, $2::bigint[])]"""
IS_LEASED = "coalesce(d.lease, '') <> ''"
"""Written so that the planner cannot use the index of leased deliveries, and read all of them."""

# A new delivery is due at `epoch`, independent of any clock, and claimed by `seq`. A retried or deferred
# one is due at a time, and claimed first once that has passed, since it is older.
IS_PENDING = "d.lease IS NULL AND d.held_at IS NULL AND d.dead_at IS NULL"
IS_CLAIMABLE = """($4::text[] IS NULL OR (SELECT e.type FROM events e WHERE e.seq = d.seq) = ANY ($4))
       AND ($5::text[] IS NULL OR d.scope <> ALL ($5))
       AND d.scope NOT IN (SELECT scope FROM others)"""

# - `capacity`: none for a subscriber that is paused.
# - `others`: contested scopes of which another worker has a delivery in flight. Theirs are not claimed:
#   they would have to be released again.
# - `waited`: retried and deferred deliveries whose time has passed.
# - `fresh`: new deliveries, by `seq`. SKIP LOCKED lets workers claim concurrently.
# - `skipped`: the first delivery of each scope that another worker has locked. Later ones of that scope are
#   not claimed, which keeps its order. It costs a fifth of a claim, only where several workers may claim.
# - `claimed`: finds rows by ctid. A join by key makes the planner sort or scan the table when its
#   statistics are stale, as those of a queue always are. It counts the attempt, so a worker that dies has
#   spent one.
CLAIM = f"""
WITH capacity AS MATERIALIZED (
    SELECT CASE WHEN {IS_PAUSED} THEN 0 ELSE $2 END AS free
), others AS (
    SELECT d.scope
      FROM deliveries d
     WHERE d.subscriber = $1 AND d.scope = ANY ($6::text[])
       AND d.fence <> 0 AND d.held_at IS NULL AND d.dead_at IS NULL AND d.lease IS NOT NULL
       AND d.seq NOT IN (SELECT unnest($7::bigint[]))
), waited AS (
    SELECT d.ctid, d.seq, d.scope
      FROM deliveries d
     WHERE d.subscriber = $1 AND d.due_at > 'epoch' AND d.due_at <= now() AND {IS_PENDING}
       AND {IS_CLAIMABLE}
     ORDER BY d.due_at, d.seq
     LIMIT (SELECT free FROM capacity)
       FOR UPDATE OF d SKIP LOCKED
), fresh AS (
    SELECT d.ctid, d.seq, d.scope
      FROM deliveries d
     WHERE d.subscriber = $1 AND d.due_at = 'epoch' AND {IS_PENDING}
       AND {IS_CLAIMABLE}
     ORDER BY d.seq
     LIMIT (SELECT free FROM capacity) - (SELECT count(*) FROM waited)
       FOR UPDATE OF d SKIP LOCKED
), skipped AS (
    SELECT d.scope, min(d.seq) AS seq
      FROM deliveries d
     WHERE $8::boolean
       AND d.subscriber = $1 AND d.due_at = 'epoch' AND {IS_PENDING}
       AND {IS_CLAIMABLE}
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
    RETURNING d.seq, d.fence, d.attempts, d.admitted
)
SELECT {EVENT_COLUMNS}, c.fence, c.attempts, c.admitted
  FROM claimed c JOIN events e ON e.seq = c.seq
 ORDER BY e.seq
"""  # noqa: S608 - interpolates constant SQL only

# Keeps the delivery's order: without a delay it is due at `epoch` and so claimed by `seq`. With a delay, the
# error of an earlier attempt is cleared: in relaxed order, later ones overtake a delivery that has an error
# (see `scopes.state.STATE`).
RELEASE = f"""
UPDATE deliveries d
   SET lease = NULL, attempts = greatest(attempts - 1, 0),
       error = CASE WHEN $4::float8 > 0 THEN $5 ELSE coalesce($5, error) END,
       due_at = CASE WHEN $4::float8 > 0 THEN now() + $4::float8 * interval '1 second'
                     ELSE 'epoch' END
 WHERE {MATCHES_TOKENS} AND {IS_LEASED}
RETURNING d.seq, d.fence
"""  # noqa: S608 - interpolates constant SQL only

# Ends waits that are longer than any wait set today. Either a clock was set back, or a release before 0.2
# stored an unbounded `Retry-After` of a provider.
END_OVERLONG_WAITS = f"""
UPDATE deliveries d
   SET due_at = now()
 WHERE d.subscriber = $1 AND d.due_at > now() + $2::float8 * interval '1 second'
   AND d.due_at > 'epoch' AND {IS_PENDING}
RETURNING d.seq
"""  # noqa: S608 - interpolates constant SQL only


async def claim(
    fetch: Fetch,
    subscriber: str,
    limit: int,
    lease: Seconds,
    types: list[str] | None,
    deferred: list[Scope] | None = None,
    contested: Sequence[Scope] = (),
    in_flight: Sequence[int] = (),
    concurrent: bool = True,
) -> Sequence[Row]:
    """Claim up to `limit` due deliveries for `lease` seconds; return each with its event.

    Claims none of the `deferred` scopes. Claims none of a `contested` scope while it has a leased delivery
    whose `seq` is not in `in_flight`. `concurrent` is whether other consumers may claim at the same time:
    without them nothing can be skipped.
    """
    scopes = (deferred, list(contested), list(in_flight))
    return await fetch(CLAIM, subscriber, limit, lease, types, *scopes, concurrent)


def claimed_at(fence: int) -> float:
    """Return when a fence was set, in seconds since 1970, by the database's clock."""
    return fence / 1_000_000


async def release(
    fetch: Fetch,
    subscriber: str,
    tokens: Iterable[Token],
    delay: Seconds,
    reason: str | None = None,
) -> set[int]:
    """Release deliveries unhandled, without spending the attempt, to be due after `delay` seconds.

    They keep their place in the order of their scope. With a `reason`, stored as their error, later ones
    may overtake them while they wait. Returns the `seq` of each whose token was valid.
    """
    return seqs(await fetch(RELEASE, subscriber, *columns(tokens), delay, reason))


async def end_overlong_waits(fetch: Fetch, subscriber: str, longest: Seconds) -> int:
    """Make deliveries due now that would wait for more than `longest` seconds; return their number."""
    return len(await fetch(END_OVERLONG_WAITS, subscriber, longest))


def columns(tokens: Iterable[Token]) -> tuple[list[int], list[int]]:
    """Return the tokens as two arrays, `seq` and `fence`, for the statements that settle them.

    They are sorted by `seq`: `width_bucket` requires it, and two statements then cannot deadlock.
    """
    in_order = sorted(tokens)
    return [token.seq for token in in_order], [token.fence for token in in_order]


def seqs(rows: Sequence[Row]) -> set[int]:
    """Return the `seq` of each row."""
    return {row["seq"] for row in rows}
