"""Lists dead letters, newest first, in pages; retries and purges them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, NamedTuple

from ...core.units import Scope
from ..database import Fetch, Row
from .byte_budget import EVENT_SIZE, budgeted, read_within
from .claim import NEW_FENCE
from .contains import contains
from .cursor import MAX_BIGINT
from .times import calendar_time, with_timezone

type LetterAction = Literal["retry", "purge"]
"""What an operator does with dead letters."""

MAX_ERROR_LENGTH = 300
"""The characters of an error by which it is grouped."""

# Quoted parts, and words with a digit: numbers, ids, hashes, addresses.
VARYING = r"""'"[^"]*"|''[^'']*''|[[:alnum:]_.:-]*[0-9][[:alnum:]_.:-]*'"""

# A regular expression takes 10 us, so the beginning of the group is compared before.
IN_GROUP = f"""coalesce(d.error, '') ^@ split_part($9, '…', 1)
        AND coalesce(regexp_replace(left(d.error, {MAX_ERROR_LENGTH}), {VARYING}, '…', 'g'), '') = $9"""

MATCHES_SEARCH = f"""d.subscriber = $1 AND d.dead_at IS NOT NULL
   AND ($2::text IS NULL OR d.seq = (SELECT f.seq FROM events f WHERE f.id = $2))
   AND ($3::text[] IS NULL OR (SELECT f.type FROM events f WHERE f.seq = d.seq) = ANY ($3))
   AND ($4::text IS NULL OR d.scope = $4)
   AND ($5::text IS NULL OR {contains("d.error", "$5")})
   AND ($6::timestamptz IS NULL OR d.dead_at >= $6)
   AND ($7::timestamptz IS NULL OR d.dead_at < $7)
   AND ($8::text[] IS NULL OR d.scope ^@ ANY ($8))
   AND ($9::text IS NULL OR {IN_GROUP})"""  # noqa: S608 - interpolates constant SQL only
"""The SQL condition of a `DeadLetterSearch`, whose fields are the first parameters of the statement."""

# Reads the index of dead letters. $10 and $11 are the `DeadLetterCursor` of the page before.
LIST_DEAD_LETTERS = f"""
SELECT d.seq, (extract(epoch FROM d.dead_at) * 1000000)::bigint AS died
  FROM deliveries d
 WHERE {MATCHES_SEARCH}
   AND (d.dead_at, d.seq) < ('epoch'::timestamptz + $10::bigint * interval '1 microsecond', $11::bigint)
 ORDER BY d.dead_at DESC, d.seq DESC
 LIMIT $12
"""  # noqa: S608 - interpolates constant SQL only

READ_DEAD_LETTERS = budgeted(
    "deliveries d JOIN events e ON e.seq = d.seq"
    " WHERE d.subscriber = $3 AND d.dead_at IS NOT NULL AND d.seq =",
    f"d.seq, e.id, e.type, e.source, e.scope, {calendar_time('e.timestamp')} AS timestamp,"
    f" {calendar_time('e.recorded_at')} AS recorded_at, e.payload, e.headers, d.attempts, d.error,"
    " d.traceback, d.dead_at",
    f"{EVENT_SIZE} + coalesce(octet_length(d.error), 0) + coalesce(octet_length(d.traceback), 0)",
)

# The new fence invalidates the token of a worker that still has the delivery.
RETRY = f"""
UPDATE deliveries d
   SET dead_at = NULL, lease = NULL, attempts = 0, due_at = 'epoch',
       fence = {NEW_FENCE}
 WHERE {MATCHES_SEARCH}
RETURNING (SELECT e.id FROM events e WHERE e.seq = d.seq) AS id
"""  # noqa: S608 - interpolates constant SQL only

COUNT_DEAD = f"""
SELECT count(*) AS count
  FROM deliveries d
 WHERE {MATCHES_SEARCH}
"""  # noqa: S608 - interpolates constant SQL only

# The unfinished decision of a purged event goes, too, with its results: nobody can retry it.
PURGE = f"""
WITH purged AS (
    DELETE FROM deliveries d
     WHERE {MATCHES_SEARCH}
    RETURNING (SELECT e.id FROM events e WHERE e.seq = d.seq) AS id, d.scope, d.seq
), unpinned AS (
    DELETE FROM decisions p USING purged
     WHERE p.subscriber = $1 AND p.scope = purged.scope AND purged.seq = ANY (p.seqs)
    RETURNING p.action_id
), unrecorded AS (
    DELETE FROM journal WHERE action_id IN (SELECT action_id FROM unpinned)
)
SELECT id FROM purged
"""  # noqa: S608 - interpolates constant SQL only

MAX_DIED_AT = 4_000_000_000_000_000  # microseconds since 1970: about the year 2096


class DeadLetterSearch(NamedTuple):
    """Selects dead letters of one subscriber; all conditions that are given must hold."""

    subscriber: str
    event_id: str | None = None
    """The id of their event; None for all events."""
    types: Sequence[str] | None = None
    """The types of their events; None for all types."""
    scope: Scope | None = None
    error: str | None = None
    """A part of their last error, in any case."""
    since: datetime | None = None
    """When they were dead-lettered, at the earliest."""
    until: datetime | None = None
    """They were dead-lettered before this time."""
    within: Sequence[str] | None = None
    """The prefixes of their scopes, of which one must match; None for all scopes."""
    group: str | None = None
    """The `error` of their `DeadLetterGroup`; empty for those without an error, None for all."""


class DeadLetter(NamedTuple):
    """A delivery that was given up, with its event and its last error."""

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


class DeadLetterCursor(NamedTuple):
    """The last dead letter of a page. As text it is an opaque cursor for clients."""

    died: int
    """When it was dead-lettered, in microseconds since 1970."""
    seq: int

    def __str__(self) -> str:
        return f"{self.died}.{self.seq}"

    @classmethod
    def parse(cls, text: str) -> "DeadLetterCursor":
        """Parse a cursor that a client passes.

        Raises:
            ValueError: the text is not a cursor.
        """
        died, _, seq = text[:50].partition(".")
        digits = (died + seq).isascii() and died.isdecimal() and seq.isdecimal()
        if not digits or int(died) > MAX_DIED_AT or int(seq) > MAX_BIGINT:
            raise ValueError(
                f"before: {text[:50]!r} is not a valid cursor: pass one returned by this API"
            )
        return cls(int(died), int(seq))


FIRST_PAGE = DeadLetterCursor(MAX_DIED_AT, MAX_BIGINT)


class DeadLetterPage(NamedTuple):
    """A page of dead letters, newest first."""

    letters: list[DeadLetter]
    before: DeadLetterCursor | None
    """The cursor of the next page; None if this is the last."""
    stopped_at: Literal["limit", "bytes"] | None
    """Which limit ended the page; None if it is the last."""


async def read_dead_letters(
    fetch: Fetch,
    which: DeadLetterSearch,
    limit: int,
    max_bytes: int,
    before: DeadLetterCursor | None = None,
) -> DeadLetterPage:
    """Return the newest matching dead letters: at most `limit`, and about `max_bytes`."""
    keys = await fetch(LIST_DEAD_LETTERS, *which, *(before or FIRST_PAGE), limit)
    seqs = [row["seq"] for row in keys]
    chunk = await read_within(fetch, seqs, max_bytes, READ_DEAD_LETTERS, which.subscriber)
    letters = [_letter(row) for row in chunk.rows]
    if chunk.rows_read < len(seqs):
        return DeadLetterPage(letters, _cursor_of(keys[chunk.rows_read - 1]), "bytes")
    if len(seqs) == limit:
        return DeadLetterPage(letters, _cursor_of(keys[-1]), "limit")
    return DeadLetterPage(letters, None, None)


async def retry_dead_letters(fetch: Fetch, which: DeadLetterSearch) -> Sequence[Row]:
    """Make dead letters due now with no attempts spent; return the ids of their events."""
    return await fetch(RETRY, *which)


async def purge_dead_letters(fetch: Fetch, which: DeadLetterSearch) -> Sequence[Row]:
    """Delete dead letters; return the ids of their events, which stay in the log."""
    return await fetch(PURGE, *which)


async def count_dead_letters(fetch: Fetch, which: DeadLetterSearch) -> int:
    """Return the number of matching dead letters."""
    return (await fetch(COUNT_DEAD, *which))[0]["count"]


def _cursor_of(row: Row) -> DeadLetterCursor:
    return DeadLetterCursor(row["died"], row["seq"])


def _letter(row: Row) -> DeadLetter:
    names = {"meta": "headers"}
    found = DeadLetter(*(row[names.get(name, name)] for name in DeadLetter._fields))
    return found._replace(
        timestamp=with_timezone(found.timestamp), recorded_at=with_timezone(found.recorded_at)
    )
