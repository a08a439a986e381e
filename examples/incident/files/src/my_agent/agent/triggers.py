"""When the agent acts: an alert of a service fires within a quarter of an hour after its deploy."""

from datetime import datetime, timedelta

from ..core.context import DecisionContext
from ..core.deps import ReflexDeps
from ..core.events import AlertChangedEvent, DeployFinishedEvent, Event
from ..core.outcomes import Act, Drop, Wait
from .agents import incident_agent
from .incidents import Incident

SUSPECT = timedelta(minutes=15)
"""How long after a deploy an alert is blamed on it."""
REPORTED = timedelta(minutes=2)
"""How long after they happened deploys and alerts may be reported."""
REMEMBERED = 3600.0  # seconds in which a repetition is recognised


def is_news(event: Event, ctx: DecisionContext) -> bool:
    """Pass deploys and alerts, unless the one before about the same thing said the same."""
    news = _read(event)
    if news is None:
        return False
    about, state = news
    known = dict(filter(None, map(_read, ctx.recent(REMEMBERED))))
    return known.get(about) != state


def _read(event: Event) -> tuple[str, str] | None:
    """Return what an event is about, and the state that it reports."""
    match event:
        case DeployFinishedEvent():
            return "deploy", event.commit
        case AlertChangedEvent():
            return f"alert {event.rule}", event.state
        case _:
            return None


async def trigger(ctx: DecisionContext, deps: ReflexDeps) -> Act | Drop | Wait | None:
    """Open an incident for alerts after a deploy; drop what resolves itself, and wait for more."""
    deploys = [event for event in ctx.events if isinstance(event, DeployFinishedEvent)]
    alerts = [event for event in ctx.events if isinstance(event, AlertChangedEvent)]
    states = {alert.rule: alert.state for alert in alerts}  # events are in the order of their times
    firing = [alert for alert in alerts if states[alert.rule] == "firing"]
    for deploy in reversed(deploys):
        if any(timedelta() <= alert.timestamp - deploy.timestamp <= SUSPECT for alert in firing):
            return await _open(ctx, deps, deploy)
    if resolved := [alert for alert in alerts if states[alert.rule] == "resolved"]:
        return Drop("The alerts resolved themselves.", resolved)
    if over := [event for event in ctx.events if _until(event) <= ctx.now()]:
        return Drop("No alert and deploy of the service came close to each other.", over)
    if not ctx.events:
        return None
    return Wait((min(map(_until, ctx.events)) - ctx.now()).total_seconds())


async def _open(ctx: DecisionContext, deps: ReflexDeps, deploy: DeployFinishedEvent) -> Act:
    judged = await deps.run(incident_agent, f"Deployed: {deploy.commit}\n{ctx.summarize()}")
    incident = Incident(service=deploy.service, commit=deploy.commit, **judged.model_dump())
    return Act(incident, "incident")


def _until(event: Event) -> datetime:
    """Return until when the other half of an incident may come."""
    if isinstance(event, DeployFinishedEvent):
        return event.timestamp + SUSPECT + REPORTED
    return event.recorded_at + REPORTED
