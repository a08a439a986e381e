"""The agent's loop: several consumers with scopes of their own, and an evaluation of the trigger for each event.

A scope always goes to the same consumer of this process, which handles its events in order. If the queue of a consumer
is full, the scope is deferred, so that the other consumers do not wait.
"""

import asyncio
import zlib
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


async def run_agent_loop(
    store: EventStore,
    deps: ReflexDeps,
    relevant: Filter,
    trigger: Trigger | Triggers,
    locks: ScopedLocks,
    on_action: OnAction | None = None,
) -> None:
    """Handle the events of this store's subscriber with `AGENT_CONCURRENCY` consumers, until it is drained."""
    memory = Memory(store, locks, DecisionContext.restore, on_action)
    consumers = deps.settings.agent_concurrency
    capacity = max(1, deps.settings.agent_prefetch // consumers)
    queues = [asyncio.Queue[tuple[Event, Token]](capacity) for _ in range(consumers)]

    async def decide(ctx: DecisionContext, event: Event, token: Token) -> None:
        if not (token.admitted or relevant(event, ctx)):
            memory.skip(token)
            return
        ctx.add(event)
        outcome = await evaluate(trigger, ctx, deps.within(ctx.scope, memory.action_id(ctx)))
        await memory.perform(ctx, token, outcome=outcome)

    async def consume(queue: asyncio.Queue[tuple[Event, Token]]) -> None:
        try:
            while True:
                event, token = await queue.get()
                with deciding(event, token):
                    async with memory.settling(token), memory.open(event.scope) as ctx:
                        await decide(ctx, event, token)
                if queue.qsize() == capacity // 2:
                    store.resume_deferred_scopes()
        finally:  # queued events of a task that ends are claimed again
            store.release_later(*(queue.get_nowait()[1] for _ in range(queue.qsize())))

    async with (
        aclosing(store.subscribe(batch_size=deps.settings.agent_prefetch)) as events,
        asyncio.TaskGroup() as group,
    ):
        tasks = [group.create_task(consume(queue)) for queue in queues]
        async for event, token in events:
            number = consumer_of(event.scope, consumers)
            if tasks[number].done():  # cancelled by other code: an error would have ended the loop
                tasks[number] = group.create_task(consume(queues[number]))
            try:
                queues[number].put_nowait((event, token))
            except asyncio.QueueFull:
                await store.defer_scope(event.scope, token, seconds=BUSY_DELAY, for_capacity=True)
        for task in tasks:  # the store is drained, and every yielded event is settled
            task.cancel()


def consumer_of(scope: Scope, consumers: int) -> int:
    """Return the number of the consumer that handles a scope."""
    return zlib.crc32(scope.encode()) % consumers
