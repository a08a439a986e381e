"""Reads the log: replays a period, follows new events, finds one, lists pages.

An event that this code cannot read is returned as an `UnreadableEvent` with the reason, so it stops no reader.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from datetime import datetime
from functools import partial
from typing import NamedTuple

import asyncpg
import logfire

from ...config import Settings
from ...core.events import Event
from ..database import (
    LONG_STATEMENT_FACTOR,
    READ_COMMITTED,
    DatabaseUnavailable,
    Fetch,
    StatementTooSlow,
)
from .byte_budget import read_within, stream_events
from .codec import EVENT_COLUMNS, Stored, UnreadableEvent, decode_any, decode_known
from .cursor import MAX_BIGINT, Cursor, Snapshot
from .notifier import Notifier
from .pages import SCAN_LIMIT, Page, find_newest, read_page
from .pages import EventFilter as EventFilter
from .reads import Readers

LATEST_SCAN_LIMIT = 50_000  # events scanned for the latest ones, in steps; about 80 ms
MAX_FILTER_TYPES = 50  # each row is compared with all of them
FOLLOW_BYTES = 100_000  # read at a time by each follower; there may be a thousand followers
FOLLOW_ROWS = 100  # fetched at a time by a follower, which blocks the event loop for a few ms
CURSOR_ROWS = 500  # fetched at a time by a replay: constant memory, few round trips

REPLAY = """
SELECT e.seq
  FROM events e
 WHERE e.timestamp >= $1
   AND e.timestamp <= coalesce($2::timestamptz, 'infinity')
   AND ($3::text[] IS NULL OR e.type = ANY ($3))
   AND ($4::text IS NULL OR e.scope = $4)
   AND ($5::text[] IS NULL OR e.scope ^@ ANY ($5))
 ORDER BY e.timestamp, e.seq
"""

# The index provides the order. With stale statistics the planner would read and sort everything before the
# first event.
DISABLE_SORT = "SET LOCAL enable_sort = off"

# A reader may pause for long, such as a pager or another instance: this is not a forgotten transaction.
NO_IDLE_TIMEOUT = "SET LOCAL idle_in_transaction_session_timeout = 0"

# Returns the events after `(tx, seq)` ($1, $2) that are visible in snapshot $4 and not in snapshot $3. The index
# by `(tx, seq)` provides the order, and the window function keeps it, so a full page ends the scan early. A scan
# that reaches its limit ($9) also returns its last row, filtered out or not: the next scan starts there.
FOLLOW = """
SELECT e.seq, e.tx::text AS tx, e.wanted, e.walked
  FROM (SELECT w.*, row_number() OVER (ORDER BY w.tx, w.seq) AS walked,
               NOT pg_visible_in_snapshot(w.tx, (SELECT $3::text::pg_snapshot))
               AND pg_visible_in_snapshot(w.tx, (SELECT $4::text::pg_snapshot))
               AND ($5::text[] IS NULL OR w.type = ANY ($5))
               AND ($6::text IS NULL OR w.scope = $6)
               AND ($7::text[] IS NULL OR w.scope ^@ ANY ($7)) AS wanted
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

FIND = f"SELECT {EVENT_COLUMNS} FROM events e WHERE e.id = $1"  # noqa: S608 - interpolates constant SQL only


class Latest(NamedTuple):
    """The newest events of a period, newest first."""

    events: list[Event]
    complete: bool
    """Whether the whole period was read; if not, `LATEST_SCAN_LIMIT` or `API_MAX_PAGE_BYTES` ended the scan."""


class Log:
    """Reads stored events, including those that this code cannot decode."""

    def __init__(
        self, readers: Readers, pool: asyncpg.Pool, notifier: Notifier, settings: Settings
    ) -> None:
        self._readers = readers
        self._pool = pool
        self._notifier = notifier
        self._fallback = settings.event_fallback_check
        self._long_timeout = settings.database_timeout * LONG_STATEMENT_FACTOR
        self._max_bytes = settings.api_max_page_bytes

    async def replay(
        self, start: datetime, end: datetime | None, event_filter: EventFilter
    ) -> AsyncGenerator[Stored]:
        """Yield past events in order of `(timestamp, seq)` from a server-side cursor.

        Raises:
            StatementTooSlow: the server took longer than the limit of long statements.
        """
        async with (
            self._pool.acquire() as connection,
            connection.transaction(isolation=READ_COMMITTED, readonly=True),
        ):
            await connection.execute(DISABLE_SORT)
            await connection.execute(NO_IDLE_TIMEOUT)
            fetch = partial(connection.fetch, timeout=self._long_timeout)
            try:
                found = await connection.cursor(
                    REPLAY, start, end, *event_filter, timeout=self._long_timeout
                )
                while keys := await found.fetch(CURSOR_ROWS, timeout=self._long_timeout):
                    async for _, event in stream_events(fetch, keys, self._max_bytes):
                        yield event
            except TimeoutError as error:  # cursors raise the driver's own error
                message = f"a statement took longer than {self._long_timeout:g} s"
                raise StatementTooSlow(message) from error

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
            max_bytes = min(self._max_bytes, FOLLOW_BYTES)
            async for row, event in stream_events(fetch, matching, max_bytes):
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

    async def find(self, event_id: str) -> Stored | None:
        """Return the event with this id; None if the log has none."""
        rows = await self._readers.find(FIND, event_id)
        return decode_any(rows[0]) if rows else None

    async def page(self, event_filter: EventFilter, before: int | None, limit: int) -> list[Stored]:
        """Return the newest events with a `seq` below `before`, newest first, by as many scans as needed.

        At the limit of bytes it logs a warning and returns fewer than `limit`.
        """
        found: list[Stored] = []
        next_before = before
        while True:
            page = await self.scan_page(event_filter, next_before, limit - len(found))
            found += page.events
            next_before = page.before
            if next_before is None or len(found) >= limit:
                return found
            if page.stopped_at == "bytes":
                logfire.warn(
                    "A page ends after {count} events: they have API_MAX_PAGE_BYTES ({most})",
                    count=len(found),
                    most=self._max_bytes,
                )
                return found

    async def scan_page(self, event_filter: EventFilter, before: int | None, limit: int) -> Page:
        """Return the newest events with a `seq` below `before`, from one scan of at most `SCAN_LIMIT`."""
        below = MAX_BIGINT if before is None else before
        with logfire.suppress_instrumentation():  # pages need no spans
            return await read_page(self._readers.list, event_filter, below, limit, self._max_bytes)

    async def has_type(self, name: str) -> bool | None:
        """Return whether the log has events of this type; None if the scan reached its limit without one."""
        found, complete = await find_newest(
            self._readers.list, EventFilter([name]), None, 1, LATEST_SCAN_LIMIT
        )
        return bool(found) or (False if complete else None)

    async def latest(self, event_filter: EventFilter, since: datetime, limit: int) -> Latest:
        """Return the newest events recorded since a time, from the newest `LATEST_SCAN_LIMIT` of the log."""
        seqs, complete = await find_newest(
            self._readers.find, event_filter, since, limit, LATEST_SCAN_LIMIT
        )
        chunk = await read_within(self._readers.find, seqs, self._max_bytes)
        events = [event for row in chunk.rows if (event := decode_known(row))]
        return Latest(events, complete and chunk.rows_read == len(seqs))


def _pop_only[T](items: list[T]) -> T:
    """Return the only item and free it here, so that a slow reader does not keep it in memory."""
    return items.pop()


def readable(stored: Stored | None) -> Event | None:
    """Return the event; if this code cannot read it, log a warning and return None."""
    if isinstance(stored, UnreadableEvent):
        logfire.warn("Event {id} cannot be read: {error}", id=stored.id, error=stored.unreadable)
        return None
    return stored
