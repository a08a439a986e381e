"""The parts of `agent/sources.py`: webhooks, which other systems call, and pollers, which ask other systems."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic_core import from_json

from ..infra.signatures import MakeVerifier
from .deps import ReflexDeps
from .events import Event
from .units import Schedule, Seconds


class InvalidDelivery(ValueError):
    """A signed delivery that cannot be read. The message is sent to the sender, with status 422."""


@dataclass(frozen=True)
class Delivery:
    """A request to a webhook whose signature is right."""

    webhook: str
    id: str
    """The sender's id; if it sends none, a hash of the body. The event's id is made of it."""
    headers: Mapping[str, str]
    """The request's headers, by their names in lower case; the sender signs few of them, or none."""
    body: bytes

    @cached_property
    def json(self) -> Any:
        """The body as parsed JSON.

        Raises:
            InvalidDelivery: it is not valid JSON.
        """
        try:
            return from_json(self.body)
        except ValueError:
            raise InvalidDelivery(
                "body: it is not valid JSON; set the sender's content type to application/json"
            ) from None


@dataclass(frozen=True)
class Webhook:
    """A public route, `POST /webhooks/NAME`, whose callers sign what they send.

    The secrets are those of its name in `WEBHOOK_SECRETS`.
    """

    verifier: MakeVerifier
    """`GitHub`, `Stripe`, `Slack`, `StandardWebhooks`, or a class of yours with the same members."""
    event: Callable[[Delivery], Event | None]
    """Returns the event of a delivery, or None to ignore it. It must be fast and without I/O. The service sets the
    event's id, so a delivery that is repeated is one event."""


@dataclass(frozen=True)
class Poller:
    """A function that asks another system for events; it runs once for all processes."""

    schedule: Schedule
    """Seconds between its runs, or a cron expression in UTC."""
    poll: Callable[[ReflexDeps], Awaitable[Iterable[Event] | None]]
    """Returns events. Give each the id of what it is about: an id that was returned before adds no event."""
    timeout: Seconds = 60.0
    """Seconds after which a run is cancelled and counts as failed."""
