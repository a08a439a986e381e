"""Reading the log: replaying it, and following it as it grows."""

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
from ..database import DATABASE_AWAY, Fetch
from .codec import EVENT_COLUMNS, decode_known

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

# Neither `seq` nor transaction ids become visible in order. Below the oldest transaction that still
# runs everything is visible for good; from there on rows are read again and those seen passed over.
FOLLOW = f"""
SELECT {EVENT_COLUMNS}, e.tx::text AS tx
  FROM events e
 WHERE (e.tx, e.seq) > ($1::text::xid8, $2::bigint)
   AND ($3::text[] IS NULL OR e.type = ANY ($3))
   AND ($4::text IS NULL OR e.scope = $4)
 ORDER BY e.tx, e.seq
 LIMIT $5
"""  # noqa: S608 - no value goes in, only the list of columns

HORIZON = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text AS tx"

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


class Cursor(NamedTuple):
    """A place in the log to go on reading from; opaque to clients, who get it as text."""

    tx: int
    seq: int

    def __str__(self) -> str:
        return f"{self.tx}.{self.seq}"

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Read a cursor that a client sends back.

        Raises:
            ValueError: it is not one of ours.
        """
        tx, _, seq = text.partition(".")
        if not (tx.isdecimal() and seq.isdecimal() and len(tx) < 20 and len(seq) < 19):
            raise ValueError(f"cursor: {text[:80]!r} is none; send one that you received, or none")
        return cls(int(tx), int(seq))


class Wanted(NamedTuple):
    """Which events of the log to read."""

    types: list[str] | None = None
    scope: Scope | None = None


async def replay(
    pool: asyncpg.Pool, start: datetime, end: datetime | None, wanted: Wanted
) -> AsyncGenerator[Event]:
    """Yield events in order of `(timestamp, seq)` from a server-side cursor; skips what is unknown."""
    async with pool.acquire() as connection, connection.transaction(readonly=True):
        await connection.execute(IN_ORDER)
        rows = connection.cursor(REPLAY, start, end, *wanted, prefetch=CURSOR_ROWS)
        async for row in rows:
            if event := decode_known(row):
                yield event


async def horizon(fetch: Fetch) -> Cursor:
    """Return the cursor below which the log is complete for good."""
    with logfire.suppress_instrumentation():  # looking is not news
        return Cursor(int((await fetch(HORIZON))[0]["tx"]), 0)


async def read_after(
    fetch: Fetch, cursor: Cursor, wanted: Wanted, limit: int
) -> list[tuple[Cursor, Event | None]]:
    """Return what is visible after a cursor, oldest transaction first; None for unknown shapes."""
    with logfire.suppress_instrumentation():  # looking is not news
        rows = await fetch(FOLLOW, str(cursor.tx), cursor.seq, *wanted, limit)
    return [(Cursor(int(row["tx"]), row["seq"]), decode_known(row)) for row in rows]


async def follow(
    fetch: Fetch, after: Cursor | None, wanted: Wanted, changed: asyncio.Event, settings: Settings
) -> AsyncGenerator[tuple[Cursor, Event]]:
    """Yield what becomes visible after a cursor; outlasts a database that is away.

    `floor` is where everything is visible for good; what was seen above it is passed over.
    """
    floor = after
    seen: set[Cursor] = set()
    while True:
        changed.clear()
        try:
            stable = await horizon(fetch)
            if floor is None:  # from now on: what is there already is not news
                floor = stable
                seen = {place async for place, _ in read_all_after(fetch, floor, wanted)}
            async for place, event in read_all_after(fetch, floor, wanted):
                if place not in seen:
                    seen.add(place)
                    yield min(place, stable), event  # no further than the log is complete
            floor = max(floor, stable)
            seen = {place for place in seen if place > floor}
        except DATABASE_AWAY as error:
            logfire.warn("The log cannot be followed: {error}", error=repr(error))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(changed.wait(), settings.event_fallback_check)


async def read_all_after(
    fetch: Fetch, cursor: Cursor, wanted: Wanted
) -> AsyncGenerator[tuple[Cursor, Event]]:
    """Yield all that is visible after a cursor, a page at a time."""
    while found := await read_after(fetch, cursor, wanted, CURSOR_ROWS):
        for place, event in found:
            if event is not None:
                yield place, event
        cursor = found[-1][0]


async def find(fetch: Fetch, event_id: str) -> Event | None:
    """Return the event with this id."""
    rows = await fetch(FIND, event_id)
    return decode_known(rows[0]) if rows else None


async def page(fetch: Fetch, wanted: Wanted, before: int | None, limit: int) -> list[Event]:
    """Return the newest events below `before`, newest first."""
    rows = await fetch(PAGE, *wanted, before, limit)
    return [event for row in rows if (event := decode_known(row))]
