"""The PydanticAI agents that triggers call. They are given their model when they run."""

from pydantic import BaseModel
from pydantic_ai import Agent

from ..core.deps import ReflexDeps
from .tools import create_incident_ticket, get_recent_events, send_slack_notification


class SummaryResponse(BaseModel):
    """What happened, for somebody who was not there."""

    period: str
    """From when to when."""
    event_count: int
    """How many events it covers."""
    highlights: list[str]
    """What is worth knowing."""
    concerns: list[str]
    """What needs attention."""


summary_agent: Agent[ReflexDeps, SummaryResponse] = Agent(
    name="summary_agent",
    deps_type=ReflexDeps,
    output_type=SummaryResponse,
    instructions=(
        "You sum up what happened in a running system: the period, how many events of which type,"
        " what stands out, and what somebody should look into. Look up earlier events when they"
        " help. Notify people only if they must act. Be brief."
    ),
    tools=[get_recent_events, send_slack_notification, create_incident_ticket],
)
