"""Reads pages of the log, newest first, each by scans of bounded length.

The log has no index by type or scope, since an index of all events slows publishing. So a filter scans, and a
filter that few events pass would scan all of a long log while other readers wait.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, NamedTuple

from ...core.events import ActionEvent
from ...core.units import Scope
from ..database import Fetch
from .byte_budget import read_within
from .codec import Stored, decode_any
from .cursor import MAX_BIGINT

SCAN_LIMIT = 10_000
"""The most events of one scan, which takes about 20 ms."""

# The window function keeps the order, so a full page ends the scan early. A scan that reaches its limit ($6) also
# returns its last row, filtered out or not: the next scan starts there.
PAGE = """
SELECT e.seq, e.wanted, e.walked, coalesce(e.recorded_at < $7, false) AS older
  FROM (SELECT w.*, row_number() OVER (ORDER BY w.seq DESC) AS walked,
               ($1::text[] IS NULL OR w.type = ANY ($1))
               AND ($2::text IS NULL OR w.scope = $2)
               AND ($3::text[] IS NULL OR w.scope ^@ ANY ($3))
               AND ($7::timestamptz IS NULL OR w.recorded_at >= $7) AS wanted
          FROM (SELECT * FROM events WHERE seq < $4 ORDER BY seq DESC LIMIT $6) AS w
       ) AS e
 WHERE e.wanted OR e.walked = $6
 ORDER BY e.seq DESC
 LIMIT $5
"""


class EventFilter(NamedTuple):
    """Selects events of the log. An action that is followed also counts to each scope that it notifies."""

    types: list[str] | None = None
    scope: Scope | None = None
    within: list[str] | None = None
    """The prefixes of scopes, of which one must match; None for all scopes."""

    def includes(self, event: Stored) -> bool:
        """Return whether an event passes the filter."""
        if self.types is not None and event.type not in self.types:
            return False
        if self.scope not in (None, event.scope) and not self._is_notified(event):
            return False
        scope = event.scope if self.scope is None else self.scope
        return is_within(scope, self.within)

    def _is_notified(self, event: Stored) -> bool:
        return isinstance(event, ActionEvent) and self.scope in event.notify


class Page(NamedTuple):
    """A page of the log, newest first."""

    events: list[Stored]
    before: int | None
    """The `before` of the next page; None if this is the last."""
    stopped_at: Literal["limit", "rows", "bytes"] | None
    """Which limit ended the page: the number of events, `SCAN_LIMIT` rows, or bytes; None if it is the last."""


async def read_page(
    fetch: Fetch, event_filter: EventFilter, before: int, limit: int, max_bytes: int
) -> Page:
    """Return the newest events with a `seq` below `before`: at most `limit`, and about `max_bytes`."""
    rows = await fetch(PAGE, *event_filter, before, limit, SCAN_LIMIT, None)
    seqs = [row["seq"] for row in rows if row["wanted"]]
    chunk = await read_within(fetch, seqs, max_bytes)
    events = [decode_any(row) for row in chunk.rows]
    if chunk.rows_read < len(seqs):
        return Page(events, seqs[chunk.rows_read - 1], "bytes")
    if len(seqs) == limit:
        return Page(events, rows[-1]["seq"], "limit")
    if rows and rows[-1]["walked"] == SCAN_LIMIT:
        return Page(events, rows[-1]["seq"], "rows")
    return Page(events, None, None)


async def find_newest(
    fetch: Fetch, event_filter: EventFilter, since: datetime | None, limit: int, scan_limit: int
) -> tuple[list[int], bool]:
    """Return the `seq` of matching events among the newest `scan_limit`, newest first, by bounded scans.

    Also returns whether these are all that were recorded since the given time, or as many as `limit`.
    """
    found: list[int] = []
    below = MAX_BIGINT
    for left in range(scan_limit, 0, -SCAN_LIMIT):
        length = min(SCAN_LIMIT, left)
        rows = await fetch(PAGE, *event_filter, below, limit - len(found), length, since)
        found += [row["seq"] for row in rows if row["wanted"]]
        if len(found) == limit or not rows or rows[-1]["walked"] < length:
            return found, True
        below = rows[-1]["seq"]
    beyond = await fetch(PAGE, *event_filter, below, 1, 1, since)
    return found, all(row["older"] for row in beyond)


def is_within(scope: Scope, within: Sequence[str] | None) -> bool:
    """Return whether a scope begins with one of these prefixes; None stands for all scopes."""
    return within is None or scope.startswith(tuple(within))
