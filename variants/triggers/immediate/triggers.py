"""When the agent acts: at once, on whatever comes in.

`relevant` says what enters the context, `trigger` what is made of it. Replace both.
"""

from ..core.context import DecisionContext
from ..core.deps import ReflexDeps
from ..core.events import Event
from ..core.types import Filter, Trigger
from .agents import ReplyResponse, reply_agent
from .filters import all_filters, rate_limit_filter


def not_a_tick(event: Event, ctx: DecisionContext) -> bool:
    """Pass everything but timers, whose ticks ask for no answer."""
    return event.type != "timer.tick"


relevant: Filter = all_filters(not_a_tick, rate_limit_filter(1000, 60))


async def immediate_trigger(ctx: DecisionContext, deps: ReflexDeps) -> ReplyResponse | None:
    """Answer the latest event, in view of the ones before it."""
    if not ctx.events:
        return None
    latest = ctx.events[-1].model_dump_json(exclude={"id", "meta", "timestamp"})
    return await deps.run(reply_agent, f"Respond to {latest}\n{ctx.summarize()}")


trigger: Trigger = immediate_trigger
