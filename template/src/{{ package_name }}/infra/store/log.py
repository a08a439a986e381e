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
from .cursor import Cursor, Snapshot

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


async def replay(
    pool: asyncpg.Pool, start: datetime, end: datetime | None, wanted: Wanted
) -> AsyncGenerator[Event]:
    """Yield events in order of `(timestamp, seq)` from a server-side cursor; skips what is unknown."""
    async with pool.acquire() as connection, connection.transaction(readonly=True):
        await connection.execute(IN_ORDER)
        await connection.execute(WITHOUT_HASTE)
        rows = connection.cursor(REPLAY, start, end, *wanted, prefetch=CURSOR_ROWS)
        async for row in rows:
            if event := decode_known(row):
                yield event


async def end(fetch: Fetch) -> Cursor:
    """Return the cursor of a reader who has seen all that is visible now."""
    return Cursor.at(Snapshot.parse((await fetch(NOW))[0]["snapshot"]))


async def read_on(
    fetch: Fetch, place: Cursor, wanted: Wanted
) -> AsyncGenerator[tuple[Cursor, Event | None]]:
    """Yield all that became visible after a cursor, a page at a time; at last None.

    Each comes with the cursor of a reader who has seen it and all before it.
    """
    async for pair in _read_window(fetch, place, wanted):
        yield pair
    now = await end(fetch)
    if now.until != place.until:
        new = Cursor(place.until, now.until, place.until.xmin, 0)
        async for pair in _read_window(fetch, new, wanted):
            yield pair
    yield now, None


async def _read_window(
    fetch: Fetch, place: Cursor, wanted: Wanted
) -> AsyncGenerator[tuple[Cursor, Event]]:
    """Yield what a cursor's second snapshot has beyond its first, and beyond its place."""
    more = place.before != place.until
    while more:
        snapshots = str(place.before), str(place.until)
        rows = await fetch(FOLLOW, str(place.tx), place.seq, *snapshots, *wanted, CURSOR_ROWS)
        for row in rows:
            place = place._replace(tx=int(row["tx"]), seq=row["seq"])
            if event := decode_known(row):
                yield place, event
        more = len(rows) == CURSOR_ROWS


async def follow(
    fetch: Fetch, after: Cursor | None, wanted: Wanted, changed: asyncio.Event, settings: Settings
) -> AsyncGenerator[tuple[Cursor, Event]]:
    """Yield what becomes visible after a cursor, or from now on; outlasts a database that is away."""
    place = after
    while True:
        changed.clear()
        try:
            start = place = place or await end(fetch)
            async for place, event in read_on(fetch, start, wanted):
                if event is not None:
                    yield place, event
        except DATABASE_AWAY as error:
            logfire.warn("The log cannot be followed: {error}", error=repr(error))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(changed.wait(), settings.event_fallback_check)


async def find(fetch: Fetch, event_id: str) -> Event | None:
    """Return the event with this id."""
    rows = await fetch(FIND, event_id)
    return decode_known(rows[0]) if rows else None


async def page(fetch: Fetch, wanted: Wanted, before: int | None, limit: int) -> list[Event]:
    """Return the newest events below `before`, newest first."""
    rows = await fetch(PAGE, *wanted, before, limit)
    return [event for row in rows if (event := decode_known(row))]


async def latest(fetch: Fetch, wanted: Wanted, since: datetime, limit: int) -> Latest:
    """Return the newest events recorded since then, from the newest `LATEST_MOST` of the log."""
    rows = await fetch(LATEST, *wanted, since, limit, LATEST_MOST)
    events = [event for row in rows if (event := decode_known(row))]
    if len(rows) == limit:
        return Latest(events, True)
    beyond = await fetch(BEYOND, since, LATEST_MOST)
    return Latest(events, not any(row["wanted"] for row in beyond))
