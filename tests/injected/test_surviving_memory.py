"""The working memory of an agent survives the process that had it: the defaults, and real processes."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from my_agent.config import Settings
from my_agent.core.events import ActionEvent
from my_agent.infra.database import Database
from my_agent.infra.store import EventStore

from .conftest import failure
from .journal import kill
from .processes import PACKAGE, PATIENCE, environment, start

type Worker = Callable[[], Awaitable[asyncio.subprocess.Process]]


@pytest.fixture
async def worker(settings: Settings) -> AsyncGenerator[Worker]:
    """Start the service's own workers, which do not outlive the test."""
    async with AsyncExitStack() as stack:

        async def start_worker() -> asyncio.subprocess.Process:
            process = await start("-m", PACKAGE, "worker", env=environment(settings))
            stack.push_async_callback(kill, process)
            return process

        yield start_worker


async def until_held(store: EventStore, count: int) -> None:
    """Wait until so many events are in a working memory."""
    async with asyncio.timeout(PATIENCE):
        while (await store.stats())[0].held < count:
            await asyncio.sleep(0.02)


async def first_action(store: EventStore) -> ActionEvent:
    """Wait for an action."""
    async with asyncio.timeout(PATIENCE):
        while not (found := await store.page(["agent.action"])):
            await asyncio.sleep(0.02)
    assert isinstance(found[0], ActionEvent)
    return found[0]


async def test_four_errors_of_a_killed_worker_and_a_fifth_make_an_alert_on_all_five(
    store: EventStore, worker: Worker
) -> None:
    errors = [failure(number) for number in range(5)]
    await store.publish_many(errors[:4])
    first = await worker()
    await until_held(store, 4)

    await kill(first)
    await worker()
    await store.publish(errors[4])

    action = await first_action(store)
    assert action.covers == [error.id for error in errors]
    assert (await store.stats())[0].held == 0


async def test_an_error_that_was_committed_after_its_successors_is_in_the_alert(
    store: EventStore, database: Database, worker: Worker
) -> None:
    late, *others = [failure(number) for number in range(5)]
    async with database.sessions.begin() as slow:
        await store.publish(late, session=slow)  # the lowest place in the log, and not visible yet
        await store.publish_many(others[:3])
        first = await worker()
        await until_held(store, 3)
    await until_held(store, 4)

    await kill(first)
    await worker()
    await store.publish(others[3])

    action = await first_action(store)
    assert action.covers == [error.id for error in (late, *others)]
