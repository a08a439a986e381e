"""A decision pays for each model request and runs each tool once, wherever its worker is killed.

Each row of the failure matrix in `docs/durable-decisions.md` has its test here. Workers are real processes, which are killed
with SIGKILL, and the provider counts what it is asked. `released_loop` is the loop of the first release, as it was.
"""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from my_agent.config import Settings
from my_agent.core.events import Event
from my_agent.infra.database import open_database
from my_agent.infra.locks import ScopedLocks
from my_agent.infra.process.embedded import cluster_of, embedded_postgres
from my_agent.infra.store import EventStore
from my_agent.migrations import migrate

from .conftest import failure
from .journal import Journal, StartWorker, kill, until_done, workers
from .processes import PATIENCE, environment
from .provider import Deltas, Provider, call, serving_models, text

LOOPS = ("current", "released")
ONCE = (3, 1, 1)
"""The requests and the runs of both tools of a decision that nothing disturbs."""

TRANSCRIPT = {
    "request 1": (4, 1, 1),
    "look": (3, 2, 1),
    "request 2": (4, 1, 1),
    "act": (3, 1, 2),
    "request 3": (4, 1, 1),
    "decided": ONCE,
}
"""What it costs in all if the worker is killed there: the step under way once more, and nothing else."""


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """Where the test's workers write."""
    return Journal(tmp_path / "journal")


@pytest.fixture
async def start_worker(journal: Journal) -> AsyncGenerator[StartWorker]:
    """Start workers, which do not outlive the block."""
    async with workers(journal, "paying") as start_one:
        yield start_one


class Asking:
    """A provider that does not answer some requests until a test lets it."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.silent: set[int] = set()
        """The numbers of these requests."""
        self.speaks = asyncio.Event()
        provider.script = self.script

    def script(self, asked: int) -> Deltas:
        """Call two tools, then answer."""
        done = sum(each["role"] == "tool" for each in self.provider.body["messages"])
        answer = call(0, ("look", "act")[done], id=f"call-{done}") if done < 2 else text("well")
        return self._late(answer) if asked in self.silent else answer

    async def _late(self, answer: Deltas) -> Deltas:
        await self.speaks.wait()
        async for delta in answer:
            yield delta

    async def until(self, asked: int) -> None:
        """Wait until it was asked so often."""
        async with asyncio.timeout(PATIENCE):
            while self.provider.asked < asked:
                await asyncio.sleep(0.02)


@pytest.fixture
async def asking() -> AsyncGenerator[Asking]:
    """A provider for worker processes."""
    async with serving_models() as provider:
        yield Asking(provider)


@pytest.fixture
def env(settings: Settings, asking: Asking) -> dict[str, str]:
    """The environment of workers whose model is at the provider."""
    return env_of(settings, asking)


def env_of(settings: Settings, asking: Asking) -> dict[str, str]:
    """The environment of workers with this database."""
    return environment(
        settings,
        DEFAULT_MODEL="openai-chat:tester",
        OPENAI_BASE_URL=asking.provider.url,
        MODEL_RETRIES="0",
        EVENT_LEASE="2",
        EVENT_FALLBACK_CHECK="0.1",
        EVENT_RETRY_BASE_DELAY="0.05",
        EFFECTS="on",
        AGENT_BATCH_WAIT="0.2",
    )


def paid(asking: Asking, journal: Journal) -> tuple[int, int, int]:
    """The requests, and the runs of each tool, of all workers."""
    counts = (journal.count("look").total(), journal.count("act").total())
    return (asking.provider.asked, *counts)


async def kill_when_decided(
    journal: Journal, start_worker: StartWorker, *options: str, env: dict[str, str]
) -> None:
    """Start a worker, and kill it after its trigger has answered and before it acts."""
    worker = await start_worker(*options, "--hang", "decided", env=env)
    await journal.until("hangs", 1)
    await kill(worker)


async def actions(store: EventStore) -> list[Event]:
    """All actions, the oldest first."""
    return (await store.page(["agent.action"]))[::-1]


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("place", TRANSCRIPT)
async def test_a_worker_that_is_killed_anywhere_costs_one_step(
    store: EventStore,
    asking: Asking,
    journal: Journal,
    start_worker: StartWorker,
    env: dict[str, str],
    place: str,
    loop: str,
) -> None:
    await store.publish(failure())
    if place.startswith("request"):
        number = int(place.split()[1])
        asking.silent = {number}
        worker = await start_worker("--loop", loop, env=env)
        await asking.until(number)
    else:
        worker = await start_worker("--loop", loop, "--hang", place, env=env)
        await journal.until("hangs", 1)

    await kill(worker)
    await start_worker("--loop", loop, env=env)
    await until_done(store)

    assert paid(asking, journal) == TRANSCRIPT[place]
    assert journal.count("acts").total() == 1
    [action] = await actions(store)
    assert set(journal.count("look")) == {f"{action.id}/call-0"}, "a call keeps its key"
    assert set(journal.count("act")) == {f"{action.id}/call-1"}
    assert await store.fetch("SELECT FROM decisions") == []


async def test_a_later_event_waits_for_the_decision_of_a_killed_worker(
    store: EventStore,
    asking: Asking,
    journal: Journal,
    start_worker: StartWorker,
    env: dict[str, str],
) -> None:
    await store.publish(failure(1))
    await kill_when_decided(journal, start_worker, env=env)
    await store.publish(failure(2))

    await start_worker(env=env)
    await until_done(store)

    assert journal.count("decides") == {"/1/failed": 2, "/2/failed": 1}
    assert paid(asking, journal) == (6, 2, 2)
    assert len(await actions(store)) == 2


async def test_a_prompt_that_changed_while_the_worker_was_down_is_asked_anew(
    store: EventStore,
    asking: Asking,
    journal: Journal,
    start_worker: StartWorker,
    env: dict[str, str],
) -> None:
    await store.publish(failure())
    await kill_when_decided(journal, start_worker, env=env)

    await start_worker("--prompt", "What else is it", env=env)
    await until_done(store)

    assert paid(asking, journal) == (6, 2, 2)
    assert len(await actions(store)) == 1


async def test_a_loop_of_the_first_release_is_replaced_while_its_decision_is_pinned(
    store: EventStore,
    asking: Asking,
    journal: Journal,
    start_worker: StartWorker,
    env: dict[str, str],
) -> None:
    await store.publish(failure())
    await kill_when_decided(journal, start_worker, "--loop", "released", env=env)

    await start_worker("--loop", "current", env=env)
    await until_done(store)

    assert paid(asking, journal) == ONCE


async def test_a_provider_that_fails_in_between_is_asked_for_the_rest_only(
    store: EventStore,
    asking: Asking,
    journal: Journal,
    start_worker: StartWorker,
    env: dict[str, str],
) -> None:
    await store.publish(failure())
    asking.provider.script = fail_at(asking, 2)

    await start_worker(env=env)
    await until_done(store)

    assert paid(asking, journal) == (4, 1, 1)


async def test_a_database_that_restarts_in_a_request_costs_that_request_at_most(
    make_settings: Callable[[str], Settings],
    asking: Asking,
    journal: Journal,
    start_worker: StartWorker,
    tmp_path: Path,
) -> None:
    place = tmp_path / "server"
    place.mkdir()
    with embedded_postgres(place) as url:
        own, cluster = make_settings(url), cluster_of(place)
        await migrate(own)
        async with open_database(own) as database:
            store = EventStore(database.sessions, database.pool, settings=own)
            await store.publish(failure())
            asking.silent = {2}
            worker = await start_worker(env=env_of(own, asking))
            await asking.until(2)

            cluster.stop("immediate")
            cluster.start(str(make_url(url).port))
            asking.speaks.set()

            await journal.until("acts", 1)
            await kill(worker)
            await store.close()
    cluster.remove()
    requests, looks, acts = paid(asking, journal)
    assert (looks, acts) == (1, 1)
    assert requests in {3, 4}


def fail_at(asking: Asking, number: int) -> Callable[[int], Deltas]:
    """Let one request fail."""

    def script(asked: int) -> Deltas:
        if asked == number:
            raise ConnectionError("the provider broke off")
        return asking.script(asked)

    return script


@pytest.mark.skipif(not ScopedLocks.across_processes, reason="locks in memory are for one worker")
async def test_two_live_workers_share_decisions_and_pay_once(
    store: EventStore,
    asking: Asking,
    journal: Journal,
    start_worker: StartWorker,
    env: dict[str, str],
) -> None:
    count = 20
    await store.publish_many([failure(number, f"scope-{number}") for number in range(count)])

    doomed = await start_worker(env=env)
    await start_worker(env=env)
    await journal.until("look", count // 2)
    await kill(doomed)
    await until_done(store)

    assert len(await actions(store)) == count
    requests, looks, acts = paid(asking, journal)
    in_flight = 8  # AGENT_CONCURRENCY, the most that the killed worker had under way
    assert 3 * count <= requests <= 3 * count + in_flight
    assert count <= looks <= count + in_flight
    assert count <= acts <= count + in_flight


@pytest.mark.skipif(not ScopedLocks.across_processes, reason="locks in memory are for one worker")
async def test_a_worker_that_thaws_records_nothing_and_acts_on_nothing(
    store: EventStore,
    asking: Asking,
    journal: Journal,
    start_worker: StartWorker,
    env: dict[str, str],
) -> None:
    await store.publish(failure())
    asking.silent = {2}
    frozen = await start_worker(env=env)
    await asking.until(2)
    os.kill(frozen.pid, signal.SIGSTOP)
    # Its lock goes with its session.
    await store.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory')"
    )

    await start_worker(env=env)
    await until_done(store)
    entries = await store.fetch("SELECT count(*) AS count FROM journal")
    asking.speaks.set()
    await asyncio.sleep(1)  # the answer waits in the frozen worker's socket
    os.kill(frozen.pid, signal.SIGCONT)
    await asyncio.sleep(3)

    assert len(await actions(store)) == 1
    assert await store.fetch("SELECT count(*) AS count FROM journal") == entries
    assert await store.fetch("SELECT FROM decisions") == []
    assert paid(asking, journal) == (4, 1, 1), "it goes no further"
