"""Reading the log: replaying it, and following it as it grows.

An event that this code cannot read stops no reader: it comes as an `UnreadableEvent` with the reason.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from datetime import datetime
from typing import NamedTuple

import asyncpg
import logfire

from ...config import Settings
from ...core.events import Event
from ...core.types import Scope
from ..database import LONG, READ_COMMITTED, DatabaseUnavailable, Fetch, StatementTooSlow
from .codec import EVENT_COLUMNS, Stored, UnreadableEvent, decode_any, decode_known
from .cursor import Cursor, Snapshot
from .wake import Wake

LATEST_MOST = 50_000  # events of the log that a look at the latest walks past: some 80 ms
CURSOR_ROWS = 500  # fetched at a time: constant memory, few round trips

REPLAY = f"""
SELECT {EVENT_COLUMNS}
  FROM events e
 WHERE e.timestamp >= $1
   AND e.timestamp <= coalesce($2::timestamptz, 'infinity')
   AND ($3::text[] IS NULL OR e.type = ANY ($3))
   AND ($4::text IS NULL OR e.scope = $4)
 ORDER BY e.timestamp, e.seq
"""  # noqa: S608 - no value goes in, only the list of columns

# The index has the order already. With stale statistics the planner would read and sort everything
# before the first event comes.
IN_ORDER = "SET LOCAL enable_sort = off"

# Whoever reads may pause: a pager, a slow disk, another instance. That is no forgotten transaction.
WITHOUT_HASTE = "SET LOCAL idle_in_transaction_session_timeout = 0"

# What is in one snapshot and not in another, from a place on. `tx` is compared first: an index has it.
FOLLOW = f"""
SELECT {EVENT_COLUMNS}, e.tx::text AS tx
  FROM events e
 WHERE (e.tx, e.seq) > ($1::text::xid8, $2::bigint)
   AND NOT pg_visible_in_snapshot(e.tx, (SELECT $3::text::pg_snapshot))
   AND pg_visible_in_snapshot(e.tx, (SELECT $4::text::pg_snapshot))
   AND ($5::text[] IS NULL OR e.type = ANY ($5))
   AND ($6::text IS NULL OR e.scope = $6)
 ORDER BY e.tx, e.seq
 LIMIT $7
"""  # noqa: S608 - no value goes in, only the list of columns

NOW = "SELECT pg_current_snapshot()::text AS snapshot"

FIND = f"SELECT {EVENT_COLUMNS} FROM events e WHERE e.id = $1"  # noqa: S608 - only columns

PAGE = f"""
SELECT {EVENT_COLUMNS}
  FROM events e
 WHERE ($1::text[] IS NULL OR e.type = ANY ($1))
   AND ($2::text IS NULL OR e.scope = $2)
   AND ($3::bigint IS NULL OR e.seq < $3)
 ORDER BY e.seq DESC
 LIMIT $4
"""  # noqa: S608 - no value goes in, only the list of columns


HAS_TYPE = "SELECT FROM events WHERE type = $1 LIMIT 1"

# There is no index by scope: each one that every event is in makes publishing a tenth slower. So the
# log is walked backwards, and a rare scope would take all of it if the walk were not bounded.
LATEST = f"""
SELECT {EVENT_COLUMNS}
  FROM (SELECT * FROM events ORDER BY seq DESC LIMIT $5) AS e
 WHERE e.recorded_at >= $3
   AND ($1::text[] IS NULL OR e.type = ANY ($1))
   AND ($2::text IS NULL OR e.scope = $2)
 ORDER BY e.seq DESC
 LIMIT $4
"""  # noqa: S608 - no value goes in, only the list of columns

BEYOND = "SELECT recorded_at >= $1 AS wanted FROM events ORDER BY seq DESC OFFSET $2 LIMIT 1"


class Latest(NamedTuple):
    """The newest events of a period, newest first."""

    events: list[Event]
    complete: bool
    """Whether all of the period was looked at; if not, only the newest `LATEST_MOST` of the log."""


class Wanted(NamedTuple):
    """Which events of the log to read."""

    types: list[str] | None = None
    scope: Scope | None = None


class Log:
    """The log as it is stored, with what this code cannot read."""

    def __init__(self, fetch: Fetch, pool: asyncpg.Pool, wake: Wake, settings: Settings) -> None:
        self._fetch = fetch
        self._pool = pool
        self._wake = wake
        self._fallback = settings.event_fallback_check
        self._patience = settings.database_timeout * LONG

    async def replay(
        self, start: datetime, end: datetime | None, wanted: Wanted
    ) -> AsyncGenerator[Stored]:
        """Yield past events in order of `(timestamp, seq)` from a server-side cursor."""
        async with (
            self._pool.acquire() as connection,
            connection.transaction(isolation=READ_COMMITTED, readonly=True),
        ):
            await connection.execute(IN_ORDER)
            await connection.execute(WITHOUT_HASTE)
            rows = connection.cursor(
                REPLAY, start, end, *wanted, prefetch=CURSOR_ROWS, timeout=self._patience
            )
            try:
                async for row in rows:
                    yield decode_any(row)
            except TimeoutError as error:  # the driver's own: cursors are not ours
                message = f"a statement took longer than {self._patience:g} s"
                raise StatementTooSlow(message) from error

    async def end(self) -> Cursor:
        """Return the cursor of a reader who has seen all that is visible now."""
        return Cursor.at(Snapshot.parse((await self._fetch(NOW))[0]["snapshot"]))

    async def read_on(
        self, place: Cursor, wanted: Wanted
    ) -> AsyncGenerator[tuple[Cursor, Stored | None]]:
        """Yield all that became visible after a cursor, a page at a time; at last None.

        Each comes with the cursor of a reader who has seen it and all before it.
        """
        async for pair in self._read_window(place, wanted):
            yield pair
        now = await self.end()
        if now.until != place.until:
            new = Cursor(place.until, now.until, place.until.xmin, 0)
            async for pair in self._read_window(new, wanted):
                yield pair
        yield now, None

    async def _read_window(
        self, place: Cursor, wanted: Wanted
    ) -> AsyncGenerator[tuple[Cursor, Stored]]:
        """Yield what a cursor's second snapshot has beyond its first, and beyond its place."""
        more = place.before != place.until
        while more:
            window = str(place.tx), place.seq, str(place.before), str(place.until)
            rows = await self._fetch(FOLLOW, *window, *wanted, CURSOR_ROWS)
            for row in rows:
                place = place._replace(tx=int(row["tx"]), seq=row["seq"])
                yield place, decode_any(row)
            more = len(rows) == CURSOR_ROWS

    async def follow(
        self, after: Cursor | None, wanted: Wanted
    ) -> AsyncGenerator[tuple[Cursor, Stored]]:
        """Yield what becomes visible after a cursor, or from now on, also through an outage."""
        place, changed = after, self._wake.subscribe()
        try:
            while True:
                changed.clear()
                try:
                    start = place = place or await self.end()
                    async for place, event in self.read_on(start, wanted):
                        if event is not None:
                            yield place, event
                except DatabaseUnavailable as error:
                    logfire.warn("The log cannot be followed: {error}", error=repr(error))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), self._fallback)
        finally:
            self._wake.unsubscribe(changed)

    async def find(self, event_id: str) -> Stored | None:
        """Return the event with this id."""
        rows = await self._fetch(FIND, event_id)
        return decode_any(rows[0]) if rows else None

    async def page(self, wanted: Wanted, before: int | None, limit: int) -> list[Stored]:
        """Return the newest events below `before`, newest first.

        A rare type or scope of a long log takes seconds, for which no follower of the log may wait.
        """
        with logfire.suppress_instrumentation():  # a listing is of no interest to a trace
            rows = await self._pool.fetch(PAGE, *wanted, before, limit)
        return [decode_any(row) for row in rows]

    async def has_type(self, name: str) -> bool:
        """Tell whether any event of the log has this type; reads all of the log if none has."""
        return bool(await self._pool.fetch(HAS_TYPE, name, timeout=self._patience))

    async def latest(self, wanted: Wanted, since: datetime, limit: int) -> Latest:
        """Return the newest events recorded since then, from the newest `LATEST_MOST` of the log."""
        rows = await self._fetch(LATEST, *wanted, since, limit, LATEST_MOST)
        events = [event for row in rows if (event := decode_known(row))]
        if len(rows) == limit:
            return Latest(events, True)
        beyond = await self._fetch(BEYOND, since, LATEST_MOST)
        return Latest(events, not any(row["wanted"] for row in beyond))


def readable(stored: Stored | None) -> Event | None:
    """Return the event, or None, with a warning, if this code cannot read it."""
    if isinstance(stored, UnreadableEvent):
        logfire.warn("Event {id} cannot be read: {error}", id=stored.id, error=stored.unreadable)
        return None
    return stored
