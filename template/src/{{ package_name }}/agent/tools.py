"""The tools of the agents: look up events, send a Slack message, open a ticket.

A tool that acts on the outside is marked `@effect`: EFFECTS=off makes it return without acting.
A tool that is not configured returns a sentence about that, and does nothing. The text of an event can make the model
request anything, so each tool checks what is allowed: which scopes are read, where messages go, how much is sent. It
returns a refusal as its result, and the decision goes on.

A decision that is taken again does not repeat finished calls. One that a crash interrupts is run again, so external
effects happen at least once. Receivers detect a repetition by `deps.call_key`.
"""

import html
from datetime import timedelta
from typing import Literal

import logfire
from pydantic_ai import RunContext

from ..core.deps import ReflexDeps
from ..core.effects import effect
from ..core.events import event_types
from ..core.prompt import contain
from ..core.types import Scope

MAX_HOURS = 168  # a week
MAX_EVENTS = 100
MAX_MESSAGE, MAX_TITLE, MAX_DESCRIPTION = 4_000, 200, 10_000  # characters; more is cut


def may_read(own: Scope, other: Scope) -> bool:
    """Return whether a decision in scope `own` may read the events of scope `other`.

    A client's message can make the model request another client's events, so this function decides and not the model.
    Never allow the scope of a client (`ws:...`).
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
        return f"Events of scope {wanted[:200]!r} may not be read from scope {own!r}."
    if event_type is not None and event_type not in event_types():
        return f"There is no event type {event_type[:200]!r}; there are {', '.join(event_types())}."
    span, most = min(max(hours, 1), MAX_HOURS), min(max(limit, 1), MAX_EVENTS)
    found = await ctx.deps.store.latest(
        [event_type] if event_type else None,
        scope=wanted,
        since=ctx.deps.store.now() - timedelta(hours=span),
        limit=most,
    )
    answer = f"{len(found.events)} events of scope {wanted}, at most {most} of the last {span} h"
    if not found.complete:
        answer += " (there may be older ones: the log is too long to be searched further back)"
    lines = [f"{answer}:", *(event.model_dump_json() for event in found.events)]
    return contain("\n".join(lines), ctx.deps.settings.prompt_max_bytes)


@effect
async def send_slack_notification(ctx: RunContext[ReflexDeps], channel: str, message: str) -> str:
    """Send a message to people on Slack.

    Args:
        ctx: The run.
        channel: The channel's name, one of those that are allowed; empty for the usual one.
        message: What to say, in at most 4,000 characters.
    """
    settings = ctx.deps.settings
    if settings.slack_webhook_url is None:
        return "Slack is off: SLACK_WEBHOOK_URL is not set."
    if channel and channel not in settings.slack_channels:
        logfire.warn("A message to {channel} was refused", channel=channel[:100])
        allowed = ", ".join(settings.slack_channels) or "only the usual one: leave it empty"
        return f"Not sent: {channel[:100]!r} is not an allowed channel (SLACK_CHANNELS): {allowed}."
    # Unescaped, `<!channel>` would notify everybody, and `<address|text>` would be a link.
    body = {"text": html.escape(message[:MAX_MESSAGE], quote=False)}
    if channel:
        body["channel"] = channel
    webhook = settings.slack_webhook_url.get_secret_value()
    with logfire.suppress_instrumentation():  # the URL is a secret, so it has no span
        response = await ctx.deps.http.post(webhook, json=body)
    if response.is_success:
        return f"Sent to {channel or 'the usual channel'}."
    return f"Slack refused the message: HTTP {response.status_code}."


@effect
async def create_incident_ticket(
    ctx: RunContext[ReflexDeps],
    title: str,
    description: str,
    priority: Literal["low", "medium", "high", "critical"],
) -> str:
    """Open a ticket for an incident.

    Args:
        ctx: The run.
        title: One line of at most 200 characters.
        description: What is known, in at most 10,000 characters.
        priority: How urgent it is.
    """
    settings = ctx.deps.settings
    if settings.ticket_url is None:
        return "Tickets are off: TICKET_URL is not set."
    title, description = title[:MAX_TITLE], description[:MAX_DESCRIPTION]
    headers = {"Idempotency-Key": ctx.deps.call_key(ctx)}
    if settings.ticket_token is not None:
        headers["Authorization"] = f"Bearer {settings.ticket_token.get_secret_value()}"
    body = {"title": title, "description": description, "priority": priority}
    response = await ctx.deps.http.post(settings.ticket_url, json=body, headers=headers)
    if response.is_success:
        return f"Ticket opened: {response.text[:200]}"
    return f"The ticket was refused: HTTP {response.status_code}."
