"""Follows the log: yields each event once, in the order in which events become visible.

A cursor holds two snapshots of the server and a position between them, so transactions that overlap lose no event.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import logfire

from ..database import DatabaseUnavailable, Fetch
from .byte_budget import stream_events
from .codec import Stored
from .connections import StoreConnections
from .cursor import Cursor, Snapshot
from .pages import SCAN_LIMIT, EventFilter

FOLLOW_BYTES = 100_000  # read at a time by each follower; there may be a thousand followers
FOLLOW_ROWS = 100  # fetched at a time by a follower, which blocks the event loop for a few ms

# Returns the events after `(tx, seq)` ($1, $2) that are visible in snapshot $4 and not in snapshot $3. The index
# by `(tx, seq)` provides the order, and the window function keeps it, so a full page ends the scan early. A scan
# that reaches its limit ($9) also returns its last row, filtered out or not: the next scan starts there.
FOLLOW = """
SELECT e.seq, e.tx::text AS tx, e.wanted, e.walked
  FROM (SELECT w.*, row_number() OVER (ORDER BY w.tx, w.seq) AS walked,
               NOT pg_visible_in_snapshot(w.tx, (SELECT $3::text::pg_snapshot))
               AND pg_visible_in_snapshot(w.tx, (SELECT $4::text::pg_snapshot))
               AND ($5::text[] IS NULL OR w.type = ANY ($5))
               AND ($6::text IS NULL OR w.scope = $6 OR (w.type = 'agent.action' AND w.payload -> 'notify' ? $6))
               AND ($7::text[] IS NULL OR coalesce($6, w.scope) ^@ ANY ($7)) AS wanted
          FROM (SELECT * FROM events
                 WHERE (tx, seq) > ($1::text::xid8, $2::bigint)
                 ORDER BY tx, seq
                 LIMIT $9) AS w
       ) AS e
 WHERE e.wanted OR e.walked = $9
 ORDER BY e.tx, e.seq
 LIMIT $8
"""

CURRENT_SNAPSHOT = "SELECT pg_current_snapshot()::text AS snapshot"


class Follower:
    """Reads what becomes visible after a cursor."""

    def __init__(self, connections: StoreConnections) -> None:
        self._readers = connections.readers
        self._notifier = connections.notifier
        self._fallback = connections.settings.event_fallback_check
        self._max_bytes = min(connections.settings.api_max_page_bytes, FOLLOW_BYTES)

    async def end(self) -> Cursor:
        """Return the cursor of a reader that has seen every event visible now."""
        return Cursor.at(
            Snapshot.parse((await self._readers.follow(CURRENT_SNAPSHOT))[0]["snapshot"])
        )

    async def read_on(
        self, cursor: Cursor, event_filter: EventFilter, fetch: Fetch | None = None
    ) -> AsyncGenerator[tuple[Cursor, Stored | None]]:
        """Yield what became visible after a cursor, each event with the next cursor; then None.

        Readers take turns on one connection, a page each, unless `fetch` uses another one.
        """
        fetch = fetch or self._readers.catch_up
        async for pair in self._read_window(cursor, event_filter, fetch):
            yield _pop_only(pair := [pair])
        now = await self.end()
        if now.until != cursor.until:
            new = Cursor(cursor.until, now.until, cursor.until.xmin, 0)
            async for pair in self._read_window(new, event_filter, fetch):
                yield _pop_only(pair := [pair])
        yield now, None

    async def _read_window(
        self, cursor: Cursor, event_filter: EventFilter, fetch: Fetch
    ) -> AsyncGenerator[tuple[Cursor, Stored]]:
        """Yield the events between a cursor's two snapshots that are after its position."""
        more = cursor.before != cursor.until
        while more:
            window = str(cursor.tx), cursor.seq, str(cursor.before), str(cursor.until)
            rows = await fetch(FOLLOW, *window, *event_filter, FOLLOW_ROWS, SCAN_LIMIT)
            matching = [row for row in rows if row["wanted"]]
            async for row, event in stream_events(fetch, matching, self._max_bytes):
                cursor = cursor._replace(tx=int(row["tx"]), seq=row["seq"])
                yield cursor, _pop_only(event := [event])
            if rows:
                cursor = cursor._replace(tx=int(rows[-1]["tx"]), seq=rows[-1]["seq"])
            more = len(rows) == FOLLOW_ROWS or (rows and rows[-1]["walked"] == SCAN_LIMIT)

    async def follow(
        self, after: Cursor | None, event_filter: EventFilter
    ) -> AsyncGenerator[tuple[Cursor, Stored]]:
        """Yield what becomes visible after a cursor, or from now on; outages of the database only delay it."""
        cursor, changed = after, self._notifier.subscribe()
        try:
            while True:
                changed.clear()
                try:
                    start = cursor = cursor or await self.end()
                    async for cursor, event in self.read_on(
                        start, event_filter, self._readers.follow
                    ):
                        if event is not None:
                            yield cursor, event
                except DatabaseUnavailable as error:
                    logfire.warn("The log cannot be followed: {error}", error=repr(error))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), self._fallback)
        finally:
            self._notifier.unsubscribe(changed)


def _pop_only[T](items: list[T]) -> T:
    """Return the only item and free it here, so that a slow reader does not keep it in memory."""
    return items.pop()
