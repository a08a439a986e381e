"""Our sources: deploys, which GitHub sends, and alerts, which we ask the monitoring system for."""

from typing import Any

import logfire
from pydantic import ValidationError

from ..core.deps import ReflexDeps
from ..core.events import AlertChangedEvent, DeployFinishedEvent, Event
from ..core.sources import Delivery, Poller, Webhook
from ..infra.signatures import GitHub


def deployed(delivery: Delivery) -> Event | None:
    """Receive finished deploys to production, and ignore what else GitHub sends."""
    if delivery.headers.get("x-github-event") != "deployment_status":
        return None
    deployment, status = delivery.json["deployment"], delivery.json["deployment_status"]
    if (status["state"], deployment["environment"]) != ("success", "production"):
        return None
    return DeployFinishedEvent(
        source="github",
        timestamp=status["created_at"],
        service=delivery.json["repository"]["name"],
        commit=deployment["sha"],
    )


async def read_alerts(deps: ReflexDeps) -> list[Event]:
    """Return the alerts of the monitoring system; one that was returned before in its state adds no event."""
    url = deps.settings.alerts_url
    if url is None:
        return []
    response = await deps.http.get(url)
    response.raise_for_status()
    return [event for found in response.json()["alerts"] if (event := _alert(found)) is not None]


def _alert(found: dict[str, Any]) -> Event | None:
    """Return the event of an alert; None, with a line in the log, if it cannot be read."""
    try:
        return AlertChangedEvent(
            id=f"{found['id']}:{found['state']}",
            source="monitoring",
            timestamp=found["changed_at"],
            service=found["service"],
            rule=found["rule"],
            state=found["state"],
            summary=found["summary"],
        )
    except (KeyError, TypeError, ValidationError) as error:
        logfire.warn("An alert cannot be read: {error}", error=repr(error))
        return None


WEBHOOKS: dict[str, Webhook] = {"github": Webhook(GitHub, deployed)}

POLLERS: dict[str, Poller] = {"alerts": Poller(10, read_alerts)}
