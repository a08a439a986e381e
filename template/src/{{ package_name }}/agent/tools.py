"""What the agents can do: look back in the log, and tell people.

A tool that is not configured says so and does nothing. A decision may be taken again after a crash,
so outside effects happen at least once; they carry `deps.action_id` for the other side to notice.
"""

from contextlib import aclosing
from datetime import timedelta
from typing import Literal

import logfire
from pydantic_ai import RunContext

from ..core.deps import ReflexDeps


async def get_recent_events(
    ctx: RunContext[ReflexDeps], event_type: str | None = None, hours: int = 1, limit: int = 20
) -> str:
    """Look up recent events of the log, of one type or of all.

    Args:
        ctx: The run.
        event_type: The type to look for; all if not given.
        hours: How many hours to look back.
        limit: The most events to return.
    """
    found: list[str] = []
    since = ctx.deps.store.now() - timedelta(hours=hours)
    types = [event_type] if event_type else None
    async with aclosing(ctx.deps.store.replay(since, event_types=types)) as events:
        async for event in events:
            found.append(event.model_dump_json())
            if len(found) >= limit:
                break
    return f"{len(found)} events:\n" + "\n".join(found)


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
    headers = {"Idempotency-Key": ctx.deps.action_id}
    if settings.ticket_token is not None:
        headers["Authorization"] = f"Bearer {settings.ticket_token.get_secret_value()}"
    body = {"title": title, "description": description, "priority": priority}
    response = await ctx.deps.http.post(settings.ticket_url, json=body, headers=headers)
    if response.is_success:
        return f"Ticket opened: {response.text[:200]}"
    return f"The ticket was refused: HTTP {response.status_code}."
