"""The agent's loop: it collects the events of each scope in batches, and evaluates the trigger once a batch.

A batch closes after `AGENT_BATCH_SIZE` events or `AGENT_BATCH_WAIT` seconds, whichever comes first.
"""

import asyncio
import contextlib
from contextlib import aclosing
from dataclasses import dataclass, field

from ..core.context import DecisionContext
from ..core.deps import ReflexDeps
from ..core.evaluation import evaluate
from ..core.events import Event
from ..core.types import Filter, Scope, Trigger, Triggers
from ..infra.locks import ScopedLocks
from ..infra.memory import Memory, OnAction
from ..infra.store import EventStore, Token
from ..infra.telemetry.tracing import deciding_together

BATCHES_IN_FLIGHT = 4  # full batches that one process may have in flight


@dataclass
class Batch:
    """The events of one scope that are collected for one evaluation."""

    scope: Scope
    items: list[tuple[Event, Token]] = field(default_factory=list[tuple[Event, Token]])
    full: asyncio.Event = field(default_factory=asyncio.Event)


async def run_agent_loop(
    store: EventStore,
    deps: ReflexDeps,
    relevant: Filter,
    trigger: Trigger | Triggers,
    locks: ScopedLocks,
    on_action: OnAction | None = None,
) -> None:
    """Handle the events of this store's subscriber in batches, until the store is drained."""
    memory = Memory(store, locks, DecisionContext.restore, on_action)
    size = deps.settings.agent_batch_size
    turns = asyncio.Semaphore(deps.settings.agent_concurrency)
    gathering: dict[Scope, Batch] = {}

    async def decide(ctx: DecisionContext, batch: Batch) -> None:
        kept: list[Token] = []
        for event, token in batch.items:
            if token.admitted or relevant(event, ctx):
                ctx.add(event)
                kept.append(token)
        if kept:
            await conclude(ctx, kept)
        await store.ack(*(token for _, token in batch.items if token not in kept))

    async def conclude(ctx: DecisionContext, kept: list[Token]) -> None:
        outcome = await evaluate(trigger, ctx, deps.within(ctx.scope, memory.action_id(ctx)))
        await memory.perform(ctx, *kept, outcome=outcome)

    async def gather(batch: Batch) -> None:
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(batch.full.wait(), deps.settings.agent_batch_wait)
        except asyncio.CancelledError:  # the events of a cancelled batch are claimed again
            store.release_later(*(token for _, token in batch.items))
            raise
        finally:
            if gathering.get(batch.scope) is batch:
                del gathering[batch.scope]
        await handle(batch)

    async def handle(batch: Batch) -> None:
        batch.items.sort(key=lambda item: item[1].seq)  # a released one may come last
        tokens = [token for _, token in batch.items]
        with deciding_together((event for event, _ in batch.items), batch.scope):
            async with turns, memory.settling(*tokens), memory.open(batch.scope) as ctx:
                await decide(ctx, batch)

    async with (
        aclosing(store.subscribe(batch_size=size * BATCHES_IN_FLIGHT)) as events,
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
