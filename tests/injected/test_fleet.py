"""Several workers on one database, with locks that reach across processes: each scope is in one hand.

Real processes, whose triggers write down when they look at which scope.
"""

import asyncio
import random
import signal
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from my_agent.config import Settings
from my_agent.core.events import ActionEvent, HTTPEvent
from my_agent.infra.store import EventStore

from .journal import Journal, stop, until_done, workers
from .processes import PATIENCE, environment
from .stores import LONG_AGO

SCOPES, EVENTS = 200, 5_000
LONG = 4 * PATIENCE  # other projects are tested at the same time
LARGE, SMALL = 2_000, 5  # events of one scope, and of each of the others
SLOWLY = "0.05"  # seconds a decision: one after the other, the large scope's take longer than the test may

type Worker = Callable[..., Awaitable[asyncio.subprocess.Process]]


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """Where the test's workers write."""
    return Journal(tmp_path / "journal")


@pytest.fixture
async def worker(settings: Settings, journal: Journal) -> AsyncGenerator[Worker]:
    """Start workers, which do not outlive the test."""
    async with workers(journal, "deciding") as start_one:

        async def start_worker(*options: str) -> asyncio.subprocess.Process:
            return await start_one(*options, env=environment(settings))

        yield start_worker


def events_of(scopes: list[str]) -> list[HTTPEvent]:
    """One event for each of these scopes, whose timestamps are in no order."""
    shuffled = random.Random(7)  # noqa: S311 - the same order each time
    now = datetime.now(UTC)
    return [
        HTTPEvent(
            source="test",
            scope=scope,
            method="GET",
            path=f"/{number}",
            timestamp=now - timedelta(seconds=shuffled.uniform(0, 60)),
        )
        for number, scope in enumerate(scopes)
    ]


async def test_two_workers_have_each_scope_in_one_hand_and_each_event_in_one_action(
    store: EventStore, worker: Worker, journal: Journal
) -> None:
    events = events_of([f"scope:{number % SCOPES}" for number in range(EVENTS)])
    workers = [await worker("--pause", "0.001") for _ in range(2)]

    await store.publish_many(events)
    await until_done(store, patience=LONG)
    await stop(*workers)

    looks = journal.path.read_text().splitlines()
    assert overlapping(looks) == [], "no two handlers of one scope at once"
    assert len({line.split()[2] for line in looks if line.startswith("enter")}) == 2, "both worked"
    assert journal.count("unsorted") == Counter(), "contexts are sorted"
    assert await covered(store) == Counter(event.id for event in events)


def overlapping(looks: list[str]) -> list[str]:
    """Return the lines at which a handler entered a scope that another had not left."""
    inside: dict[str, str] = {}
    found: list[str] = []
    for line in looks:
        what, scope, process = line.split()
        if what == "enter":
            if scope in inside:
                found.append(line)
            inside[scope] = process
        elif what == "leave":
            inside.pop(scope, None)
    return found


async def covered(store: EventStore) -> Counter[str]:
    """Count in how many actions each event is."""
    actions = store.replay(LONG_AGO, event_types=["agent.action"])
    found: Counter[str] = Counter()
    async for action in actions:
        assert isinstance(action, ActionEvent)
        found.update(action.covers)
    return found


async def test_a_scope_with_thousands_of_events_does_not_delay_the_others(
    store: EventStore, worker: Worker
) -> None:
    small = [f"scope:{number}" for number in range(SCOPES - 1) for _ in range(SMALL)]
    await store.publish_many(events_of(["large"] * LARGE + small))

    workers = [await worker("--pause", SLOWLY) for _ in range(2)]
    async with asyncio.timeout(LONG):
        while (await left(store))["small"]:
            await asyncio.sleep(0.05)

    assert (await left(store))["large"] > LARGE / 10, "the others need not wait until it is done"
    await stop(*workers)


async def left(store: EventStore) -> dict[str, int]:
    """Return how many events of the large scope, and of the others, are still to be decided on."""
    [row] = await store.fetch(
        "SELECT count(*) FILTER (WHERE scope = 'large') AS large,"
        " count(*) FILTER (WHERE scope <> 'large') AS small"
        " FROM deliveries WHERE held_at IS NULL"
    )
    return {"large": row["large"], "small": row["small"]}


async def test_the_scope_of_a_frozen_worker_goes_to_another_and_the_thawed_one_changes_nothing(
    store: EventStore, worker: Worker, journal: Journal
) -> None:
    events = events_of(["frozen"] * 5)
    frozen = await worker("--pause", str(PATIENCE / 10))
    await store.publish_many(events)
    await journal.until("enter", 1)
    frozen.send_signal(signal.SIGSTOP)
    try:
        other = await worker("--pause", "0.001")
        await until_done(store, patience=LONG)  # though the frozen one has not given up its lock
        looks = journal.path.read_text().splitlines()
    finally:
        frozen.send_signal(signal.SIGCONT)
    await asyncio.sleep(PATIENCE / 10)
    await stop(frozen, other)

    assert f"leave frozen {frozen.pid}" not in looks, "it was frozen in the middle of a decision"
    assert await covered(store) == Counter(event.id for event in events)
    assert await store.dlq_list() == []
