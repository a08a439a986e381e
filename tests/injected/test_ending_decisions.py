"""Decisions that end in unusual ways, in the loops of today and of the first release.

Their event fails or goes back, and the loop handles the next one. `released_loop` is put there by
`tests/test_projects.py`: the same answer's loop as 0.1.0 rendered it, which updates leave as it is.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from my_agent.agent import loop, released_loop
from my_agent.config import Settings
from my_agent.core.context import DecisionContext
from my_agent.core.deps import ReflexDeps
from my_agent.core.events import Event
from my_agent.infra.locks import open_locks
from my_agent.infra.process.supervise import Supervised
from my_agent.infra.store import EventStore

from .conftest import SOON, failure
from .stores import status_of

type Ending = Callable[[], Awaitable[object]]


async def cancel_what_is_awaited() -> None:
    """End as a library's own timeout does: it cancels a task of its own."""
    task = asyncio.create_task(asyncio.sleep(SOON))
    await asyncio.sleep(0)
    task.cancel()
    await task


async def cancel_the_decision() -> None:
    """End as a library does that cancels the task which called it."""
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(SOON)


async def leave_the_process() -> None:
    """End as code that was written for a script does."""
    raise SystemExit(3)


async def interrupt() -> None:
    """End as if somebody had pressed the keys."""
    raise KeyboardInterrupt


async def close_a_generator() -> None:
    """End with the error that closes generators."""
    raise GeneratorExit


async def end_as_a_group() -> None:
    """End with a group of errors that no `except Exception` catches."""
    raise BaseExceptionGroup("a group", [asyncio.CancelledError(), ValueError("no luck")])


ENDINGS = [
    cancel_what_is_awaited,
    cancel_the_decision,
    leave_the_process,
    interrupt,
    close_a_generator,
    end_as_a_group,
]


LOOPS = [loop.run_agent_loop, released_loop.run_agent_loop]


@asynccontextmanager
async def deciding(
    store: EventStore, deps: ReflexDeps, run: Callable[..., Awaitable[None]], ending: Ending
) -> AsyncGenerator[asyncio.Event]:
    """Run a loop as the service does, in which decisions on `/0/failed` end so; give when one begins."""
    begun = asyncio.Event()

    async def decide(ctx: DecisionContext, deps: ReflexDeps) -> str:
        if "/0/" in getattr(ctx.events[-1], "path", ""):
            begun.set()
            await asyncio.sleep(0.1)  # for events that come meanwhile to wait for their turn
            await ending()
        return "decided"

    def anything(event: Event, ctx: DecisionContext) -> bool:
        return True

    async with open_locks(deps.settings) as locks:
        agent = Supervised("agent", lambda: run(store, deps, anything, decide, locks))
        running = asyncio.create_task(agent.run())
        try:
            yield begun
        finally:
            agent.stop()
            store.drain()
            ended, _ = await asyncio.wait([running], timeout=SOON)
            running.cancel()
            assert ended, "a drained loop ends by itself"


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(2 * SOON):
        while not await condition():
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("run", LOOPS, ids=["today's", "released"])
@pytest.mark.parametrize("ending", ENDINGS)
async def test_a_decision_that_ends_in_an_unusual_way_fails_and_its_scope_goes_on(
    ending: Ending, run: Callable[..., Awaitable[None]], deps: ReflexDeps, settings: Settings
) -> None:
    bad, queued, good = failure(0), failure(1), failure(2)
    once = settings.model_copy(update={"event_max_attempts": 1})
    store = EventStore(deps.sessions, deps.store.pool, settings=once)
    await store.publish_many([bad])

    async def is_dead() -> bool:
        return bool(await store.dlq_list())

    async def are_done() -> bool:
        return {await status_of(store, event) for event in (queued, good)} == {"completed"}

    async with deciding(store, deps, run, ending) as begun:
        await asyncio.wait_for(begun.wait(), SOON)
        await store.publish(queued)
        await until(is_dead)
        await store.publish(good)
        await until(are_done)
    await store.close()

    [letter] = await store.dlq_list()
    assert letter.id == bad.id
    assert letter.error


@pytest.mark.parametrize("run", LOOPS, ids=["today's", "released"])
async def test_a_decision_that_the_service_stops_goes_back_unspent(
    run: Callable[..., Awaitable[None]], deps: ReflexDeps, store: EventStore
) -> None:
    await store.publish(failure(0))
    begun = asyncio.Event()

    async def think() -> None:
        begun.set()
        try:
            await asyncio.sleep(2 * SOON)
        except asyncio.CancelledError as error:
            raise ValueError("a library's own error for it") from error

    async def decide(ctx: DecisionContext, deps: ReflexDeps) -> str:
        await think()
        return "decided"

    async with open_locks(deps.settings) as locks:
        agent = Supervised("agent", lambda: run(store, deps, lambda *_: True, decide, locks))
        running = asyncio.create_task(agent.run())
        await asyncio.wait_for(begun.wait(), SOON)
        agent.stop()
        store.drain()
        running.cancel()
        await asyncio.wait([running], timeout=SOON)

    [row] = await store.fetch("SELECT lease, attempts, error FROM deliveries")
    assert (row["lease"], row["attempts"], row["error"]) == (None, 0, None)
