"""The agent's loop: many scopes concurrently, and an evaluation of the trigger for each event.

The events of a scope are handled one by one, in order; up to `AGENT_CONCURRENCY` scopes are handled concurrently. A scope
with more than its share of events in flight is deferred, so that it cannot block the others.
"""

import asyncio
from collections import deque
from contextlib import aclosing

from ..core.context import DecisionContext
from ..core.deps import ReflexDeps
from ..core.evaluation import evaluate
from ..core.events import Event
from ..core.types import Filter, Scope, Trigger, Triggers
from ..infra.locks import ScopedLocks
from ..infra.memory import BUSY_DELAY, Memory, OnAction
from ..infra.store import EventStore, Token
from ..infra.telemetry.tracing import deciding

MAX_SCOPE_SHARE = 1 / 4  # of AGENT_PREFETCH, for the events of one scope in flight


async def run_agent_loop(
    store: EventStore,
    deps: ReflexDeps,
    relevant: Filter,
    trigger: Trigger | Triggers,
    locks: ScopedLocks,
    on_action: OnAction | None = None,
) -> None:
    """Handle the events of this store's subscriber, several scopes concurrently, until it is drained."""
    memory = Memory(store, locks, DecisionContext.restore, on_action)
    waiting: dict[Scope, deque[tuple[Event, Token]]] = {}
    turns = asyncio.Semaphore(deps.settings.agent_concurrency)
    share = max(1, int(deps.settings.agent_prefetch * MAX_SCOPE_SHARE))

    async def decide(ctx: DecisionContext, event: Event, token: Token) -> None:
        if not (token.admitted or relevant(event, ctx)):
            memory.skip(token)
            return
        ctx.add(event)
        outcome = await evaluate(trigger, ctx, deps.within(ctx.scope, memory.action_id(ctx)))
        await memory.perform(ctx, token, outcome=outcome)

    async def take_turns(scope: Scope) -> None:
        queue = waiting[scope]
        try:
            while queue:
                event, token = queue[0]
                with deciding(event, token):
                    async with turns, memory.settling(token), memory.open(scope) as ctx:
                        await decide(ctx, event, token)
                queue.popleft()
                if len(queue) == share // 2:
                    store.resume_deferred_scopes()
        finally:  # the scope's next event starts another task
            del waiting[scope]
            store.release_later(*(token for _, token in queue))

    async with (
        aclosing(store.subscribe(batch_size=deps.settings.agent_prefetch)) as events,
        asyncio.TaskGroup() as group,
    ):
        async for event, token in events:
            queue = waiting.setdefault(event.scope, deque())
            if len(queue) >= share:
                await store.defer_scope(event.scope, token, seconds=BUSY_DELAY, for_capacity=True)
                continue
            queue.append((event, token))
            if len(queue) == 1:
                group.create_task(take_turns(event.scope))
