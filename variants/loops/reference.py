"""The agent's loop: one event at a time, and an evaluation of the trigger for each.

Perceive, filter, remember, decide, act. Change these steps here. `infra` keeps the guarantees: leases, locks, and one
transaction for an action and its events.
"""

from contextlib import aclosing

from ..core.context import DecisionContext
from ..core.deps import ReflexDeps
from ..core.evaluation import evaluate
from ..core.events import Event
from ..core.types import Filter, Trigger, Triggers
from ..infra.locks import ScopedLocks
from ..infra.memory import Memory, OnAction
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
    """Handle the events of this store's subscriber one by one, until it is drained."""
    memory = Memory(store, locks, DecisionContext.restore, on_action)

    async def decide(ctx: DecisionContext, event: Event, token: Token) -> None:
        if not (token.admitted or relevant(event, ctx)):
            memory.skip(token)
            return
        ctx.add(event)
        outcome = await evaluate(trigger, ctx, deps.within(ctx.scope, memory.action_id(ctx)))
        await memory.perform(ctx, token, outcome=outcome)

    async with aclosing(store.subscribe(batch_size=deps.settings.agent_prefetch)) as events:
        async for event, token in events:
            with deciding(event, token):
                async with memory.settling(token), memory.open(event.scope) as ctx:
                    await decide(ctx, event, token)
