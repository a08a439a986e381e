"""Rows: the reads of the console at a million events, 50,000 scopes and 10,000 dead letters.

Each read is repeated with the same connection, as by pages that several people have open. Beside the typical time, the 95th
percentile counts: what one person waits for now and then.
"""

import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from .console_log import ID_OF_BUSY_ACTION, fill
from .gate import Outcome, gate
from .rows import Place, Row

if TYPE_CHECKING:
    from my_agent.infra.store import EventStore

type Read = Callable[[], Awaitable[object]]

EVENTS = 1_000_000
CALLS = 40
BOUND = 100.0  # milliseconds that a page may take

READS = (
    "scopes, the first page",
    "scopes, a page by name",
    "scopes, a search in all names",
    "the state of a scope",
    "the state of a scope that nobody knows",
    "the life of a busy scope",
    "the life of a busy scope, long ago",
    "the life of a scope with few events",
    "a search by type that finds nothing",
    "a search by correlation",
    "a search by text that finds nothing",
    "a search by text beyond ASCII",
    "a decision with its units",
    "dead letters, the first page",
    "dead letters by error and type",
    "dead letters, counted by error",
    "dead letters in groups",
    "workers and subscriptions",
)
"""The titles of the reads."""


def _titles(read: str) -> tuple[str, str]:
    """Return the titles of a read's two rows."""
    return f"console, {read}: p50", f"console, {read}: p95"


ROWS = tuple(Row(title, "ms", BOUND) for read in READS for title in _titles(read))


async def measure(place: Place) -> dict[str, float]:
    """Ask in a process as shipped; code without these reads has nothing to measure."""
    if not (place.side.source / "my_agent/infra/store/inspection").exists():
        return {row.title: 0.0 for row in ROWS}
    count = place.count(EVENTS)
    url = await place.prepared("console", lambda url: fill(url, count))
    return (await place.run("console", "read", url, place.count(CALLS))).figures


async def read(url: str, count: int) -> Outcome:
    """Time each read so many times, one after the other."""
    from .contenders.reflex import opened

    async with opened(url) as store:
        reads = await _reads(store)
        for each in reads.values():
            await each()
        start = await gate()
        taken = {name: [await _timed(each) for _ in range(count)] for name, each in reads.items()}
    figures = dict[str, float]()
    for name, times in taken.items():
        typical, rare = _titles(name)
        figures |= {typical: statistics.median(times), rare: sorted(times)[int(0.95 * len(times))]}
    return Outcome(start, time.monotonic(), count * len(reads), figures=figures)


async def _timed(each: Read) -> float:
    begun = time.perf_counter()
    await each()
    return 1_000 * (time.perf_counter() - begun)


async def _reads(store: "EventStore") -> Mapping[str, Read]:
    from my_agent.infra.store.dead_letters import DeadLetterSearch
    from my_agent.infra.store.inspection import EventSearch

    inspection, admin = store.inspection, store.admin
    [row] = await store.fetch("SELECT max(seq) AS last FROM events")
    [action] = await store.fetch(ID_OF_BUSY_ACTION)
    last, floor = row["last"], max(1, row["last"] - 5_000)
    dead = DeadLetterSearch("agent")

    async def workers() -> None:
        await inspection.workers()
        await inspection.subscriptions()

    found: dict[str, Read] = {
        "scopes, the first page": inspection.scopes,
        "scopes, a page by name": lambda: inspection.scopes(after=f"{floor}.user:3"),
        "scopes, a search in all names": lambda: inspection.scopes("no such scope"),
        "the state of a scope": lambda: inspection.scope("busy:7"),
        "the state of a scope that nobody knows": lambda: inspection.scope("nobody"),
        "the life of a busy scope": lambda: inspection.scope_life("busy:3"),
        "the life of a busy scope, long ago": lambda: inspection.scope_life(
            "busy:3", before=2 * last // 5
        ),
        "the life of a scope with few events": lambda: inspection.scope_life(
            "user:4321@example.com"
        ),
        "a search by type that finds nothing": lambda: inspection.search(
            EventSearch(types=["lifecycle"])
        ),
        "a search by correlation": lambda: inspection.search(EventSearch(correlation="order-77")),
        "a search by text that finds nothing": lambda: inspection.search(
            EventSearch(text="no such text")
        ),
        "a search by text beyond ASCII": lambda: inspection.search(EventSearch(text="nichts söhn")),
        "a decision with its units": lambda: inspection.decision(action["id"]),
        "dead letters, the first page": lambda: admin.dead_letters(dead, None, 50),
        "dead letters by error and type": lambda: admin.dead_letters(
            dead._replace(error="nothing", types=["http.request"]), None, 50
        ),
        "dead letters, counted by error": lambda: admin.count_dead_letters(
            dead._replace(error="overloaded")
        ),
        "dead letters in groups": lambda: admin.dead_letter_groups(dead),
        "workers and subscriptions": workers,
    }
    assert found.keys() == set(READS)
    return found
