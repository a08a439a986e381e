"""Row: how long `EventStore.stats` takes beside a large working memory."""

import statistics
import time

import asyncpg

from .gate import Outcome, gate
from .rows import Place, Row

TITLE = "`stats` with 500,000 held events in 50,000 scopes"
ROWS = (Row(TITLE, "ms", 20.0),)

HELD = 500_000
EVENTS_OF_A_SCOPE = 10
CHUNK = 10_000  # events of one call
CALLS = 11
TOLERATED = 0.25  # by how much a count may be off: a store may estimate large ones

# As the store holds deliveries that it has claimed, without the claims.
HOLD = "UPDATE deliveries SET held_at = now(), fence = 1 WHERE held_at IS NULL"


async def measure(place: Place) -> dict[str, float]:
    """Ask several times in a process as shipped, and take the median."""
    count = place.count(HELD)

    async def fill(url: str) -> None:
        await place.run("stats", "hold", url, count)
        connection = await asyncpg.connect(url)
        await connection.execute(HOLD)
        await connection.execute("VACUUM ANALYZE")
        await connection.execute("CHECKPOINT")
        await connection.close()

    url = await place.prepared("held", fill)
    outcome = await place.run("stats", "ask", url, count)
    return {TITLE: outcome.figures["ms"]}


async def hold(url: str, count: int) -> Outcome:
    """Publish the events that are to be held."""
    from .contenders.reflex import events, opened

    async with opened(url) as store:
        start = await gate()
        for done in range(0, count, CHUNK):
            scopes = min(CHUNK, count - done) // EVENTS_OF_A_SCOPE
            chunk = events(min(CHUNK, count - done), scopes)
            for event in chunk:
                event.scope = f"{event.scope}:{done}"
            await store.publish_many(chunk)
        return Outcome(start, time.monotonic(), count)


async def ask(url: str, count: int) -> Outcome:
    """Ask for the statistics, and check that they are about right."""
    from .contenders.reflex import opened

    async with opened(url) as store:
        start = await gate()
        taken: list[float] = []
        stats = await store.stats()
        for _ in range(CALLS):
            begun = time.perf_counter()
            stats = await store.stats()
            taken.append(time.perf_counter() - begun)
        [held] = [each.held for each in stats if each.subscriber == "agent"]
        if abs(held - count) > TOLERATED * count:
            raise SystemExit(f"`stats` counts {held} held events of {count}")
        ms = 1_000 * statistics.median(taken)
        return Outcome(start, time.monotonic(), CALLS, figures={"ms": ms})
