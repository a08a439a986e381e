"""The agent acts on enough errors within a short time.

`relevant` is the filter of events that enter the context, and `trigger` decides on them. Replace both.
"""

from ..core.context import DecisionContext
from ..core.deps import ReflexDeps
from ..core.types import Filter, Seconds, Trigger
from .agents import AlertResponse, alert_agent
from .filters import all_filters, keyword_filter, rate_limit_filter

mentions_error = keyword_filter(["error", "exception", "fail"])

relevant: Filter = all_filters(mentions_error, rate_limit_filter(1000, 60))


async def error_threshold_trigger(
    ctx: DecisionContext,
    deps: ReflexDeps,
    threshold: int = 5,
    window_seconds: Seconds = 60,
) -> AlertResponse | None:
    """Raise an alert after `threshold` errors within `window_seconds`."""
    errors = [event for event in ctx.window(window_seconds) if mentions_error(event, ctx)]
    if len(errors) < threshold:
        return None
    found = f"{len(errors)} errors within {window_seconds:g} s"
    return await deps.run(alert_agent, f"{found}: how bad are they?\n{ctx.summarize()}")


trigger: Trigger = error_threshold_trigger
