"""The agent's loop: events gather, scope by scope, and the trigger looks once at each batch.

A batch closes when it has `AGENT_BATCH_SIZE` events or is `AGENT_BATCH_WAIT` seconds old, whichever
comes first; it needs no further event for that.
"""

import asyncio
import contextlib
from contextlib import aclosing
from dataclasses import dataclass, field

import logfire

from ..core.context import DecisionContext
from ..core.deps import ReflexDeps
from ..core.events import Event
from ..core.types import Filter, Scope, Trigger
from ..infra.locks import ScopedLocks
from ..infra.memory import Memory, OnAction
from ..infra.store import EventStore, Token
from ..infra.tracing import deciding_together

BATCHES_IN_HAND = 4  # full batches that may gather at once


@dataclass
class Batch:
    """The events of one scope that gather."""

    scope: Scope
    items: list[tuple[Event, Token]] = field(default_factory=list[tuple[Event, Token]])
    full: asyncio.Event = field(default_factory=asyncio.Event)


async def run_agent_loop(
    store: EventStore,
    deps: ReflexDeps,
    relevant: Filter,
    trigger: Trigger,
    locks: ScopedLocks,
    on_action: OnAction | None = None,
) -> None:
    """Handle the events that this store's subscriber is owed, in batches."""
    memory = Memory(store, locks, DecisionContext.restore, on_action)
    size = deps.settings.agent_batch_size
    turns = asyncio.Semaphore(deps.settings.agent_concurrency)
    gathering: dict[Scope, Batch] = {}

    async def decide(ctx: DecisionContext, batch: Batch) -> None:
        kept: list[Token] = []
        for event, token in batch.items:
            if relevant(event, ctx):
                ctx.add(event)
                kept.append(token)
        if kept:
            await evaluate(ctx, kept)
        await store.ack(*(token for _, token in batch.items if token not in kept))

    async def evaluate(ctx: DecisionContext, kept: list[Token]) -> None:
        output = await trigger(ctx, deps.within(ctx.scope, memory.action_id(ctx)))
        if output is None:
            await memory.hold(ctx, *kept)
        else:
            name = getattr(trigger, "__name__", "trigger")
            action = await memory.act(ctx, *kept, trigger=name, output=output)
            logfire.info("action {action_id}", action_id=action.id, scope=ctx.scope)

    async def gather(batch: Batch) -> None:
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(batch.full.wait(), deps.settings.agent_batch_wait)
        except asyncio.CancelledError:  # whatever cancels this task, what gathered comes again
            store.release_later(*(token for _, token in batch.items))
            raise
        finally:
            if gathering.get(batch.scope) is batch:
                del gathering[batch.scope]
        await look_at(batch)

    async def look_at(batch: Batch) -> None:
        tokens = [token for _, token in batch.items]
        with deciding_together((event for event, _ in batch.items), batch.scope):
            async with turns, memory.settling(*tokens), memory.open(batch.scope) as ctx:
                await decide(ctx, batch)

    async with (
        aclosing(store.subscribe(batch_size=size * BATCHES_IN_HAND)) as events,
        asyncio.TaskGroup() as group,
    ):
        async for event, token in events:
            if event.scope not in gathering:
                gathering[event.scope] = Batch(event.scope)
                group.create_task(gather(gathering[event.scope]))
            batch = gathering[event.scope]
            batch.items.append((event, token))
            if len(batch.items) >= size or token.alone:
                del gathering[event.scope]
                batch.full.set()
