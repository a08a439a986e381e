"""The agent acts on every event at once.

`relevant` is the filter of events that enter the context, and `trigger` decides on them. Replace both.
"""

from ..core.context import DecisionContext
from ..core.deps import ReflexDeps
from ..core.events import Event
from ..core.types import Filter, Trigger
from .agents import ReplyResponse, reply_agent
from .filters import all_filters, rate_limit_filter


def not_a_tick(event: Event, ctx: DecisionContext) -> bool:
    """Pass all events except ticks of timers, which need no answer."""
    return event.type != "timer.tick"


relevant: Filter = all_filters(not_a_tick, rate_limit_filter(1000, 60))


async def immediate_trigger(ctx: DecisionContext, deps: ReflexDeps) -> ReplyResponse | None:
    """Answer the latest event, with the earlier ones as context."""
    if not ctx.events:
        return None
    latest = f"the latest of these events, a {ctx.events[-1].type}"
    return await deps.run(reply_agent, f"Respond to {latest}:\n{ctx.summarize()}")


trigger: Trigger = immediate_trigger
