"""The agent's loop: many scopes at once, and the trigger looks after each event.

Each scope has its turn by itself, in order; up to `AGENT_CONCURRENCY` scopes have theirs at the same
time. A scope with more than its share in hand passes events on for a moment, so that it cannot
crowd out the others.
"""

import asyncio
from collections import deque
from contextlib import aclosing

import logfire

from ..core.context import DecisionContext
from ..core.deps import ReflexDeps
from ..core.events import Event
from ..core.types import Filter, Scope, Trigger
from ..infra.locks import ScopedLocks
from ..infra.memory import BUSY_DELAY, Memory, OnAction
from ..infra.store import EventStore, Token
from ..infra.tracing import deciding

SHARE = 4  # a scope may have one part in so many of what is in hand


async def run_agent_loop(
    store: EventStore,
    deps: ReflexDeps,
    relevant: Filter,
    trigger: Trigger,
    locks: ScopedLocks,
    on_action: OnAction | None = None,
) -> None:
    """Handle the events that this store's subscriber is owed, several scopes at once."""
    memory = Memory(store, locks, DecisionContext.restore, on_action)
    waiting: dict[Scope, deque[tuple[Event, Token]]] = {}
    turns = asyncio.Semaphore(deps.settings.agent_concurrency)
    share = max(1, deps.settings.agent_prefetch // SHARE)

    async def decide(ctx: DecisionContext, event: Event, token: Token) -> None:
        if not relevant(event, ctx):
            memory.skip(token)
            return
        ctx.add(event)
        output = await trigger(ctx, deps.within(ctx.scope, memory.action_id(ctx)))
        if output is None:
            await memory.hold(ctx, token)
        else:
            name = getattr(trigger, "__name__", "trigger")
            action = await memory.act(ctx, token, trigger=name, output=output)
            logfire.info("action {action_id}", action_id=action.id, scope=ctx.scope)

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
                    store.look_again()
        finally:  # whatever ends this task, the scope's next event begins another
            del waiting[scope]
            store.release_later(*(token for _, token in queue))

    async with (
        aclosing(store.subscribe(batch_size=deps.settings.agent_prefetch)) as events,
        asyncio.TaskGroup() as group,
    ):
        async for event, token in events:
            queue = waiting.setdefault(event.scope, deque())
            if len(queue) >= share:
                await store.pass_on(event.scope, token, seconds=BUSY_DELAY, for_room=True)
                continue
            queue.append((event, token))
            if len(queue) == 1:
                group.create_task(take_turns(event.scope))
