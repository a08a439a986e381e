"""The PydanticAI agents that triggers call. They are given their model when they run."""

from pydantic import BaseModel
from pydantic_ai import Agent

from ..core.deps import ReflexDeps
from .tools import create_incident_ticket, get_recent_events, send_slack_notification


class ReplyResponse(BaseModel):
    """An answer to whoever sent the event."""

    reply: str
    """What to say, in a sentence or two."""
    follow_ups: list[str]
    """What somebody should do about it, if anything."""


reply_agent: Agent[ReflexDeps, ReplyResponse] = Agent(
    name="reply_agent",
    deps_type=ReflexDeps,
    output_type=ReplyResponse,
    instructions=(
        "You answer events as they happen. Say what the latest one means and what follows from it."
        " Look up earlier events when they help. Notify people only if they must act. Be brief."
    ),
    tools=[get_recent_events, send_slack_notification, create_incident_ticket],
)
