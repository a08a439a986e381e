"""Searches the log, newest first, by one scan of bounded length in rows and bytes."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, NamedTuple

from ....core.units import Scope
from ...database import Fetch, Row
from ..byte_budget import read_within
from ..codec import Stored, decode_any
from ..contains import contains
from ..cursor import MAX_BIGINT
from ..operators import operator_source
from ..times import calendar_time, with_timezone
from .scan import SCANNED_EVENTS

TEXT_EVENTS = 3_000
"""The most events whose payload one search reads."""
TEXT_BYTES = 4_000_000
"""The most bytes of payloads, as text, that one search reads, and one payload more."""

# Records of operators are in a scope of their own: a client with other scopes finds its own records by their source.
MATCHES = """($1::text[] IS NULL OR e.type = ANY ($1))
   AND ($2::text IS NULL OR e.scope = $2)
   AND ($3::text IS NULL OR e.headers ->> 'correlation_id' = $3)
   AND ($4::text[] IS NULL OR e.scope ^@ ANY ($4) OR (e.type = 'operator.action' AND e.source = $5))"""

# A scan that finds less than a page also returns its last row, wanted or not.
SCAN = f"""
SELECT w.seq, w.wanted, w.walked, {calendar_time("w.recorded_at")} AS recorded_at
  FROM (SELECT e.seq, e.recorded_at, row_number() OVER w AS walked, lead(e.seq) OVER w IS NULL AS is_last,
               coalesce({MATCHES}, false) AS wanted
          FROM (SELECT seq, type, source, scope, headers, recorded_at FROM events
                 WHERE seq < $6 ORDER BY seq DESC LIMIT $8) AS e
        WINDOW w AS (ORDER BY e.seq DESC)) AS w
 WHERE w.wanted OR w.is_last
 ORDER BY w.seq DESC
 LIMIT $7
"""  # noqa: S608 - interpolates constant SQL only

# Reads one payload after the other, as long as the budget lasts. The other conditions come first, since they are cheap.
TEXT_SCAN = f"""
WITH RECURSIVE walk (seq, walked, bytes, found, wanted, recorded_at) AS (
    SELECT $6::bigint, 0, 0::bigint, 0, false, NULL::timestamptz
     UNION ALL
    SELECT n.seq, w.walked + 1, w.bytes + n.bytes, w.found + n.wanted::int, n.wanted, n.recorded_at
      FROM walk w
     CROSS JOIN LATERAL (
           SELECT e.seq, e.recorded_at, coalesce(octet_length(t.text), 0) AS bytes,
                  coalesce({contains("t.text", "$10")}, false) AS wanted
             FROM (SELECT * FROM events WHERE seq < w.seq ORDER BY seq DESC LIMIT 1) AS e
            CROSS JOIN LATERAL (
                  SELECT CASE WHEN {MATCHES} THEN e.payload::text END AS text OFFSET 0) AS t) AS n
     WHERE w.walked < $8 AND w.bytes < $9 AND w.found < $7
)
SELECT seq, wanted, walked, bytes, {calendar_time("recorded_at")} AS recorded_at
  FROM walk
 WHERE walked > 0 AND (wanted OR walked = (SELECT max(walked) FROM walk))
 ORDER BY seq DESC
"""  # noqa: S608 - interpolates constant SQL only


class EventSearch(NamedTuple):
    """Selects events of the log; all conditions that are given must hold."""

    types: Sequence[str] | None = None
    scope: Scope | None = None
    correlation: str | None = None
    """The correlation id of their meta."""
    text: str | None = None
    """A part of the payload's JSON text, in any case; beyond ASCII as far as the database's locale knows letters."""
    within: Sequence[str] | None = None
    """The prefixes of scopes, of which one must match; None for all scopes."""
    operator: str | None = None
    """An operator whose own records are found outside these scopes, too."""


class FoundPage(NamedTuple):
    """The events that one search found, newest first."""

    events: list[Stored]
    before: int | None
    """The `before` with which to search on; None if the search came to the beginning of the log."""
    stopped_at: Literal["limit", "rows", "bytes"] | None
    """What ended the search: the number of found events, of scanned events, or bytes; None at the beginning of the log."""
    scanned: int
    """How many events were scanned."""
    scanned_to: datetime | None
    """When the oldest of these was recorded; None if there was none."""


class _Scan(NamedTuple):
    """What a scan found."""

    seqs: list[int]
    last: int | None
    """The `seq` of the oldest event scanned; None at the beginning of the log."""
    stopped_at: Literal["limit", "rows", "bytes"] | None
    scanned: int
    scanned_to: datetime | None


async def search_events(
    fetch: Fetch, what: EventSearch, before: int | None, limit: int, max_bytes: int
) -> FoundPage:
    """Return the newest matching events with a `seq` below `before`: at most `limit`, and about `max_bytes`."""
    below = MAX_BIGINT if before is None else before
    if any("\x00" in (each or "") for each in (what.scope, what.correlation, what.text)):
        return FoundPage([], None, None, 0, None)
    scan = await (_scan_texts if what.text else _scan_columns)(fetch, what, below, limit)
    chunk = await read_within(fetch, scan.seqs, max_bytes)
    events = [decode_any(row) for row in chunk.rows]
    if chunk.rows_read < len(scan.seqs):
        last = scan.seqs[chunk.rows_read - 1]
        return FoundPage(events, last, "bytes", scan.scanned, scan.scanned_to)
    return FoundPage(events, scan.last, scan.stopped_at, scan.scanned, scan.scanned_to)


async def _scan_columns(fetch: Fetch, what: EventSearch, below: int, limit: int) -> _Scan:
    rows = await fetch(SCAN, *_conditions(what), below, limit, SCANNED_EVENTS)
    full = sum(row["wanted"] for row in rows) == limit
    return _scan_of(rows, full, bool(rows) and rows[-1]["walked"] == SCANNED_EVENTS)


async def _scan_texts(fetch: Fetch, what: EventSearch, below: int, limit: int) -> _Scan:
    rows = await fetch(
        TEXT_SCAN, *_conditions(what), below, limit, TEXT_EVENTS, TEXT_BYTES, what.text
    )
    full = sum(row["wanted"] for row in rows) == limit
    scan = _scan_of(rows, full, bool(rows) and rows[-1]["walked"] == TEXT_EVENTS)
    if scan.last is None and rows and rows[-1]["bytes"] >= TEXT_BYTES:
        return scan._replace(last=rows[-1]["seq"], stopped_at="bytes")
    return scan


def _conditions(what: EventSearch) -> tuple[object, ...]:
    """Return the first parameters of the statements."""
    own = None if what.operator is None else operator_source(what.operator)
    return what.types, what.scope, what.correlation, what.within, own


def _scan_of(rows: Sequence[Row], full: bool, far: bool) -> _Scan:
    seqs = [row["seq"] for row in rows if row["wanted"]]
    if not rows:
        return _Scan(seqs, None, None, 0, None)
    last, walked, at = rows[-1]["seq"], rows[-1]["walked"], with_timezone(rows[-1]["recorded_at"])
    if full or far:
        return _Scan(seqs, last, "limit" if full else "rows", walked, at)
    return _Scan(seqs, None, None, walked, at)
