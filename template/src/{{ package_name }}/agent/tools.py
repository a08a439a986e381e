"""What the agents can do: look back in the log, and tell people.

A tool that is not configured says so and does nothing. A decision may be taken again after a crash,
so outside effects happen at least once; `deps.idempotency_key` lets the other side notice.
"""

from datetime import timedelta
from typing import Literal

import logfire
from pydantic_ai import RunContext

from ..core.deps import ReflexDeps
from ..core.events import event_types
from ..core.types import Scope

HOURS_MOST = 168  # a week
EVENTS_MOST = 100


def may_read(own: Scope, other: Scope) -> bool:
    """Decide whether a decision in one scope may look at the events of another.

    A client's message can make the model ask for what another client wrote. So the answer is given
    here and not by the model. Never open the scope of a client (`ws:...`).
    """
    return other == "main" and not own.startswith("ws:")


async def get_recent_events(
    ctx: RunContext[ReflexDeps],
    event_type: str | None = None,
    hours: int = 1,
    limit: int = 20,
    scope: str | None = None,
) -> str:
    """Look up recent events of the log, newest first, of one type or of all.

    Args:
        ctx: The run.
        event_type: The type to look for; all if not given.
        hours: How many hours to look back, from 1 to 168.
        limit: The most events to return, from 1 to 100.
        scope: Whose events to look up; those of the decision's own scope if not given.
    """
    own = ctx.deps.scope
    wanted = own if scope is None else scope
    if wanted != own and not may_read(own, wanted):
        return f"Events of scope {wanted!r} may not be read from scope {own!r}."
    if event_type is not None and event_type not in event_types():
        return f"There is no event type {event_type!r}; there are {', '.join(event_types())}."
    span, most = min(max(hours, 1), HOURS_MOST), min(max(limit, 1), EVENTS_MOST)
    found = await ctx.deps.store.latest(
        [event_type] if event_type else None,
        scope=wanted,
        since=ctx.deps.store.now() - timedelta(hours=span),
        limit=most,
    )
    answer = f"{len(found.events)} events of scope {wanted}, at most {most} of the last {span} h"
    if not found.complete:
        answer += " (there may be older ones: the log is too long to be searched further back)"
    return "\n".join([f"{answer}:", *(event.model_dump_json() for event in found.events)])


async def send_slack_notification(ctx: RunContext[ReflexDeps], channel: str, message: str) -> str:
    """Send a message to people on Slack.

    Args:
        ctx: The run.
        channel: The channel's name.
        message: What to say.
    """
    webhook = ctx.deps.settings.slack_webhook_url
    if webhook is None:
        return "Slack is off: SLACK_WEBHOOK_URL is not set."
    body = {"channel": channel, "text": message}
    with logfire.suppress_instrumentation():  # the address is the secret: no trace may have it
        response = await ctx.deps.http.post(webhook.get_secret_value(), json=body)
    if response.is_success:
        return f"Sent to {channel}."
    return f"Slack refused the message: HTTP {response.status_code}."


async def create_incident_ticket(
    ctx: RunContext[ReflexDeps],
    title: str,
    description: str,
    priority: Literal["low", "medium", "high", "critical"],
) -> str:
    """Open a ticket for an incident.

    Args:
        ctx: The run.
        title: One line.
        description: What is known.
        priority: How urgent it is.
    """
    settings = ctx.deps.settings
    if settings.ticket_url is None:
        return "Tickets are off: TICKET_URL is not set."
    key = ctx.deps.idempotency_key("ticket", title, description, priority)
    headers = {"Idempotency-Key": key}
    if settings.ticket_token is not None:
        headers["Authorization"] = f"Bearer {settings.ticket_token.get_secret_value()}"
    body = {"title": title, "description": description, "priority": priority}
    response = await ctx.deps.http.post(settings.ticket_url, json=body, headers=headers)
    if response.is_success:
        return f"Ticket opened: {response.text[:200]}"
    return f"The ticket was refused: HTTP {response.status_code}."
