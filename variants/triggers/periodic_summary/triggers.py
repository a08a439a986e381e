"""The agent acts from time to time, with a summary of the events since its last action.

`relevant` is the filter of events that enter the context, and `trigger` decides on them. Replace both.
"""

from datetime import timedelta

from ..core.context import DecisionContext
from ..core.deps import ReflexDeps
from ..core.events import Event
from ..core.types import Filter, Seconds, Trigger
from .agents import SummaryResponse, summary_agent
from .filters import all_filters, rate_limit_filter


def no_idle_tick(event: Event, ctx: DecisionContext) -> bool:
    """Pass a timer's tick only if the scope holds events: it makes the trigger check the time."""
    return event.type != "timer.tick" or bool(ctx.events)


relevant: Filter = all_filters(no_idle_tick, rate_limit_filter(1000, 60))


async def periodic_summary_trigger(
    ctx: DecisionContext,
    deps: ReflexDeps,
    min_events: int = 10,
    max_seconds: Seconds = 3600,
) -> SummaryResponse | None:
    """Summarise after `min_events` events, or `max_seconds` after the last action."""
    news = [event for event in ctx.events if event.type != "timer.tick"]
    began = ctx.last_action_at or (ctx.events[0].recorded_at if ctx.events else ctx.now())
    waited = ctx.now() - began >= timedelta(seconds=max_seconds)
    if not news or (len(news) < min_events and not waited):
        return None
    return await deps.run(summary_agent, f"Summarise {len(news)} events.\n{ctx.summarize()}")


trigger: Trigger = periodic_summary_trigger
