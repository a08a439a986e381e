"""The log: appends events, replays a period, follows new events, finds one, lists pages.

An event that this code cannot read is returned as an `UnreadableEvent` with the reason, so it stops no reader.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import logfire

from ..database import (
    READ_COMMITTED,
    StatementTooSlow,
    after_commit,
    fetch_in,
)
from ..telemetry import counters
from ..telemetry.spans import step
from .byte_budget import read_within, stream_events
from .codec import EVENT_COLUMNS, ErasedEvent, UnreadableEvent, decode_any, decode_known
from .cursor import MAX_BIGINT
from .follow import Follower
from .insert import insert_events
from .notifier import NOTIFY
from .pages import EventFilter as EventFilter
from .pages import find_newest, read_page
from .publish import Publisher

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncGenerator, Sequence
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncSession

    from ...core.events import Event
    from .codec import Limits, Stored
    from .connections import StoreConnections
    from .cursor import Cursor
    from .pages import Page

LATEST_SCAN_LIMIT = 50_000  # events scanned for the latest ones, in steps; about 80 ms
MAX_FILTER_TYPES = 50  # each row is compared with all of them
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

FIND = f"SELECT {EVENT_COLUMNS} FROM events e WHERE e.id = $1"  # noqa: S608 - interpolates constant SQL only


class Latest(NamedTuple):
    """The newest events of a period, newest first."""

    events: list[Event]
    complete: bool
    """Whether the whole period was read; if not, `LATEST_SCAN_LIMIT` or `API_MAX_PAGE_BYTES` ended the scan."""


class Log:
    """Appends events and reads them, including erased ones and those that this code cannot decode."""

    def __init__(self, connections: StoreConnections, limits: Limits) -> None:
        self.limits = limits
        """The limits of published events."""
        settings = connections.settings
        self._pool = connections.pool
        self._notifier = connections.notifier
        self._readers = connections.readers
        self._publisher = Publisher(connections, limits)
        self._follower = Follower(connections)
        self._long_timeout = connections.long_timeout
        self._max_bytes = settings.api_max_page_bytes

    async def publish(self, event: Event, session: AsyncSession | None = None) -> bool:
        """Append an event; see `EventStore.publish`."""
        if session is not None:
            return bool(await self.publish_many([event], session))
        return await self._publisher.publish(event)

    async def publish_many(
        self, events: Sequence[Event], session: AsyncSession | None = None, by: str | None = None
    ) -> int:
        """Append events; see `EventStore.publish_many`."""
        with step("store.publish", count=len(events)):
            if session is None:
                return await self._publisher.publish_many(events, by)
            new = await insert_events(fetch_in(session), events, self.limits)
            await fetch_in(session)(NOTIFY)
            after_commit(session, lambda: counters.published.add(new))
            return new

    @asynccontextmanager
    async def waking(self) -> AsyncGenerator[asyncio.Event]:
        """Provide an `asyncio.Event` that is set whenever events may have been published."""
        changed = self._notifier.subscribe()
        try:
            yield changed
        finally:
            self._notifier.unsubscribe(changed)

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
        return await self._follower.end()

    def read_on(
        self, cursor: Cursor, event_filter: EventFilter
    ) -> AsyncGenerator[tuple[Cursor, Stored | None]]:
        """Yield what became visible after a cursor, each event with the next cursor; then None."""
        return self._follower.read_on(cursor, event_filter)

    def follow(
        self, after: Cursor | None, event_filter: EventFilter
    ) -> AsyncGenerator[tuple[Cursor, Stored]]:
        """Yield what becomes visible after a cursor, or from now on; outages of the database only delay it."""
        return self._follower.follow(after, event_filter)

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

    async def close(self) -> None:
        """Wait until all published events are committed."""
        await self._publisher.close()


def readable(stored: Stored | None) -> Event | None:
    """Return the event; None if it is erased, or, with a warning, if this code cannot read it."""
    if isinstance(stored, ErasedEvent):
        return None
    if isinstance(stored, UnreadableEvent):
        logfire.warn("Event {id} cannot be read: {error}", id=stored.id, error=stored.unreadable)
        return None
    return stored
