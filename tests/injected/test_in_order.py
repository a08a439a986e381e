"""Events of a scope are handled in the order in which they were published, by however many workers.

Real processes, whose filters write down which event they look at; some are killed, and others begin.
"""

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from my_agent.config import Settings
from my_agent.core.events import HTTPEvent
from my_agent.infra.locks import ScopedLocks
from my_agent.infra.store import EventStore

from .journal import Journal, StartWorker, kill, stop, until_done, workers
from .processes import PATIENCE, environment

SCOPES, BUSY, EVENTS = 20, 100, 400  # scopes, events of one more scope, events of the others
LONG = 4 * PATIENCE  # other projects are tested at the same time


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """Where the test's workers write."""
    return Journal(tmp_path / "journal")


@pytest.fixture
async def start_worker(journal: Journal) -> AsyncGenerator[StartWorker]:
    """Start workers, which do not outlive the test."""
    async with workers(journal, "deciding") as start_one:
        yield start_one


def numbered() -> list[HTTPEvent]:
    """Events of many scopes, mixed; the path is the event's number within its scope."""
    scopes = ["busy"] * BUSY + [f"scope-{number % SCOPES}" for number in range(EVENTS)]
    random.Random(7).shuffle(scopes)  # noqa: S311 - the same order each time
    counts: dict[str, int] = defaultdict(int)
    events: list[HTTPEvent] = []
    for scope in scopes:
        counts[scope] += 1
        path = f"/{counts[scope]}"
        events.append(HTTPEvent(source="test", scope=scope, method="GET", path=path))
    return events


WORKERS = (1, 2, 4) if ScopedLocks.across_processes else (1,)
"""Locks in memory are for one worker."""


@pytest.mark.parametrize("count", WORKERS)
@pytest.mark.parametrize("kills", [0, 2], ids=["undisturbed", "with kills"])
async def test_no_event_overtakes_another_of_its_scope(
    store: EventStore,
    settings: Settings,
    journal: Journal,
    start_worker: StartWorker,
    count: int,
    kills: int,
) -> None:
    env = environment(settings, EVENT_LEASE="2")
    running = [await start_worker("--pause", "0.002", env=env) for _ in range(count)]
    events = numbered()

    publishing = asyncio.create_task(publish(store, events))
    for number in range(1, kills + 1):
        await journal.until("looked", number * len(events) // (kills + 2))
        running.append(await start_worker("--pause", "0.002", env=env))
        await kill(running.pop(0))
    await publishing
    await until_done(store, patience=LONG)
    await stop(*running)

    found = out_of_order(journal.path.read_text().splitlines())
    assert found == [], f"{len(found)} of {len(events)} events overtook others: {found[:5]}"


async def publish(store: EventStore, events: list[HTTPEvent]) -> None:
    """Publish some one after the other and some in batches, while they are handled."""
    for start in range(0, len(events), 50):
        if start % 100:
            await store.publish_many(events[start : start + 50])
        else:
            for event in events[start : start + 50]:
                await store.publish(event)


def out_of_order(lines: list[str]) -> list[str]:
    """Return the events that were looked at before an earlier one of their scope was done with.

    An event comes again if its worker was killed before it was settled. So neither the first looks at
    the events of a scope may be out of order, nor the last ones.
    """
    looks = [line.split()[1] for line in lines if line.startswith("looked")]
    first = {look: number for number, look in reversed(list(enumerate(looks)))}
    last = {look: number for number, look in enumerate(looks)}
    found: set[str] = set()
    for times in (first, last):
        newest: dict[str, int] = {}
        for look in sorted(times, key=lambda each: times[each]):
            scope, _, path = look.partition(":/")
            if int(path) < newest.get(scope, 0):
                found.add(look)
            newest[scope] = max(int(path), newest.get(scope, 0))
    return sorted(found)
