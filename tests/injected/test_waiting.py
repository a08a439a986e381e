"""A trigger that waits, in the project's own loop: it is evaluated again in time, and the filter is not asked twice."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

from my_agent.agent import released_loop
from my_agent.agent.loop import run_agent_loop
from my_agent.config import Settings
from my_agent.core.context import DecisionContext
from my_agent.core.deps import ReflexDeps
from my_agent.core.events import ActionEvent, Event
from my_agent.core.outcomes import Act, Drop, Wait
from my_agent.core.types import Trigger, Triggers
from my_agent.infra.database import connect
from my_agent.infra.locks import open_locks
from my_agent.infra.store import EventStore
from my_agent.infra.store.wakes import MAX_WOKEN, WAKE

from .conftest import SOON, failure
from .stores import status_of
from .test_plans import nodes, patient, plan_of

WAITING = 50_000
MOST_PAGES = 20  # that a look at them may read: the index is three levels deep

# Scopes that hold an event each and wait for an hour, as so many decisions leave them.
WAIT = """
WITH written AS (
    INSERT INTO events (id, type, source, scope, timestamp, payload, headers)
    SELECT 'waiting-' || n, 'http.request', 'test', 'waits:' || n, now(),
           '{"path": "/", "method": "GET"}', '{}'
      FROM generate_series(1, $1::int) AS n
    RETURNING seq, scope
), scoped AS (
    INSERT INTO scopes (subscriber, scope, version, wake_at)
    SELECT 'agent', scope, 1, now() + interval '1 hour' FROM written
)
INSERT INTO deliveries (subscriber, seq, scope, held_at, fence, attempts)
SELECT 'agent', seq, scope, now(), 7, 1 FROM written
"""


@asynccontextmanager
async def looping(
    store: EventStore,
    deps: ReflexDeps,
    trigger: Trigger | Triggers,
    asked: list[str],
    run: Callable[..., Awaitable[None]] = run_agent_loop,
) -> AsyncGenerator[None]:
    """Run a loop for the block, with a filter that lets each event in once."""

    def once(event: Event, ctx: DecisionContext) -> bool:
        asked.append(event.id)
        return asked.count(event.id) == 1

    async with open_locks(deps.settings) as locks:
        loop = asyncio.ensure_future(run(store, deps, once, trigger, locks))
        try:
            yield
            store.drain()
            await asyncio.wait_for(loop, SOON)
        finally:
            loop.cancel()


async def test_every_outcome_is_performed_in_each_scope_by_this_loop(
    store: EventStore, deps: ReflexDeps
) -> None:
    waits = [failure(number, f"waits:{number}") for number in range(5)]
    drops = [failure(number, f"drops:{number}") for number in range(5)]
    await store.publish_many([*waits, *drops])
    evaluated: dict[str, int] = {}
    asked: list[str] = []

    async def trigger(ctx: DecisionContext, deps: ReflexDeps) -> object | None:
        evaluated[ctx.scope] = evaluated.get(ctx.scope, 0) + 1
        if ctx.scope.startswith("drops"):
            return Drop("of no use")
        return Wait(0.5) if evaluated[ctx.scope] == 1 else Act("waited", trigger="patient")

    async with looping(store, deps, {"main": trigger}, asked), asyncio.timeout(SOON):
        for event, status in [*((e, "completed") for e in waits), *((e, "dropped") for e in drops)]:
            while await status_of(store, event) != status:
                await asyncio.sleep(0.05)

    actions = [each for each in await store.page(["agent.action"]) if isinstance(each, ActionEvent)]
    assert {each.trigger for each in actions} == {"patient"}
    assert sorted(each.covers[0] for each in actions) == sorted(event.id for event in waits)
    assert sorted(asked) == sorted(event.id for event in [*waits, *drops])
    assert all(evaluated[event.scope] == 2 for event in waits)


async def test_fifty_thousand_waiting_scopes_are_not_read_until_they_are_due(
    settings: Settings,
) -> None:
    connection = await connect(patient(settings))
    await connection.execute("ALTER TABLE scopes SET (autovacuum_enabled = off)")
    await connection.execute("ANALYZE scopes")  # while they are empty
    await connection.execute(WAIT, WAITING)
    await connection.close()

    plan = await plan_of(settings, WAKE, ("agent", MAX_WOKEN))

    used = {node["Index Name"] for node in nodes(plan) if "Index Name" in node}
    pages = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    assert "scopes_waiting" in used, plan
    assert pages <= MOST_PAGES, f"it looks at {pages} pages: {plan}"


async def test_the_released_loop_performs_an_act_and_a_drop_and_says_what_a_wait_needs(
    settings: Settings, deps: ReflexDeps
) -> None:
    once = settings.model_copy(update={"event_max_attempts": 1})
    store = EventStore(deps.sessions, deps.store.pool, settings=once)
    acted, dropped, waited = (failure(1, "acts"), failure(2, "drops"), failure(3, "waits"))
    await store.publish_many([acted, dropped, waited])
    answers = {"acts": Act("done", trigger="named"), "drops": Drop("no use"), "waits": Wait(1)}

    async def trigger(ctx: DecisionContext, deps: ReflexDeps) -> object | None:
        return answers[ctx.scope]

    async with looping(store, deps, trigger, [], released_loop.run_agent_loop):
        async with asyncio.timeout(SOON):
            for event, status in ((acted, "completed"), (dropped, "dropped"), (waited, "dlq")):
                while await status_of(store, event) != status:
                    await asyncio.sleep(0.05)
    await store.close()

    [action] = [e for e in await store.page(["agent.action"]) if isinstance(e, ActionEvent)]
    [letter] = await store.dlq_list()
    assert action.trigger == "named"
    assert "memory.perform" in (letter.error or "")
