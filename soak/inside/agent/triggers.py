"""The soak's trigger: the path of an http.request is `/KIND/NUMBER`, and its kind says how it is decided.

An event of any kind but `gather` acts or fails as soon as it is decided on. So there is at most one in a context,
unless events are decided on in batches.
"""

import asyncio
import time

from pydantic_ai import Agent, RunContext
from sqlalchemy import text

from ..core.context import DecisionContext
from ..core.deps import ReflexDeps
from ..core.events import Event, HTTPEvent
from ..core.types import Filter, Trigger

ENOUGH = 5  # events that only gather, for an action
FAILING = ("raise", "cancel", "surrogate")
COUNT = text("SELECT count(*) FROM soak_effects")


def kind_of(event: Event) -> str:
    """Return the kind that the event's path names."""
    return event.path.split("/")[1] if isinstance(event, HTTPEvent) else ""


def soak_filter(event: Event, ctx: DecisionContext) -> bool:
    """Pass the soak's events, except those that are there to be turned down."""
    return kind_of(event) not in ("", "skip")


async def count_actions(ctx: RunContext[ReflexDeps]) -> str:
    """Count the actions so far."""
    async with ctx.deps.session() as session:
        return f"{(await session.execute(COUNT)).scalar_one()} actions"


agent: Agent[ReflexDeps, str] = Agent(
    name="soak", deps_type=ReflexDeps, output_type=str, tools=[count_actions]
)


async def soak_trigger(ctx: DecisionContext, deps: ReflexDeps) -> object | None:
    """Decide as the kinds of the context's events say."""
    kinds = [kind_of(event) for event in ctx.events]
    kind = next((kind for kind in kinds if kind in FAILING), None)
    kind = kind or next((kind for kind in kinds if kind != "gather"), "gather")
    match kind:
        case "raise":
            raise ValueError("the soak's decision fails")
        case "surrogate":
            raise ValueError("cannot read \udcff\udcfe.txt")
        case "cancel":
            await _cancelled_by_others()
        case "slow":
            await asyncio.sleep(1)
        case "thread":
            await asyncio.to_thread(time.sleep, 10)
        case "model":
            return await deps.run(agent, "How many actions are there?")
        case "gather" if len(kinds) < ENOUGH:
            return None
        case _:
            pass
    return {"decided": kind}


async def _cancelled_by_others() -> None:
    """End with a CancelledError that nobody of the service raised, as a library's own time limit may."""
    task = asyncio.create_task(asyncio.sleep(60))
    await asyncio.sleep(0)
    task.cancel()
    await task


relevant: Filter = soak_filter
trigger: Trigger = soak_trigger
