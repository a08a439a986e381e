"""Taking events in, looking at them, and looking after the dead letters."""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Body, HTTPException, Query
from pydantic import BaseModel

from ...core.events import Event
from ...infra.store import InvalidEvent
from ..deps import SettingsDep, StoreDep
from ..errors import PROBLEMS, PUBLISHING, missing
from ..incoming import IncomingEvent

router = APIRouter(responses=PROBLEMS)


class Accepted(BaseModel):
    """The event is stored; `duplicate` says that it was before."""

    id: str
    status: Literal["published", "duplicate"]


class BatchAccepted(BaseModel):
    """All events are stored; so many of them were new."""

    count: int
    published: int


class Delivery(BaseModel):
    """How far an event has come with one subscriber."""

    subscriber: str
    status: str
    attempts: int
    error: str | None


class EventDetails(BaseModel):
    """An event of the log and what became of it."""

    event: Event
    recorded_at: datetime
    deliveries: list[Delivery]


class EventPage(BaseModel):
    """Events, newest first; `before` leads to the next page."""

    events: list[Event]
    before: int | None


class DeadLetterDetails(BaseModel):
    """An event that was given up, and why."""

    id: str
    type: str
    source: str
    scope: str
    timestamp: datetime
    attempts: int
    error: str | None
    traceback: str | None
    dead_at: datetime


class DeadLetters(BaseModel):
    """The newest dead letters."""

    count: int
    events: list[DeadLetterDetails]


class Retrying(BaseModel):
    """The event is due again."""

    status: Literal["retrying"]
    event_id: str


Limit = Annotated[int, Query(ge=1, le=1000)]


@router.post("", responses=PUBLISHING)
async def publish_event(event: Annotated[IncomingEvent, Body()], store: StoreDep) -> Accepted:
    """Store an event for the agent; sending it again with the same id changes nothing."""
    new = await store.publish(event)
    return Accepted(id=event.id, status="published" if new else "duplicate")


@router.post("/batch", responses=PUBLISHING)
async def publish_batch(
    events: list[IncomingEvent], store: StoreDep, settings: SettingsDep
) -> BatchAccepted:
    """Store many events, all or none of them."""
    if len(events) > settings.api_max_batch:
        raise InvalidEvent(
            f"body: it has {len(events)} events; send at most {settings.api_max_batch} at once"
        )
    return BatchAccepted(count=len(events), published=await store.publish_many(events))


@router.get("")
async def list_events(
    store: StoreDep,
    type: Annotated[list[str] | None, Query()] = None,
    scope: str | None = None,
    before: Annotated[int | None, Query(ge=0, lt=2**63)] = None,
    limit: Limit = 100,
) -> EventPage:
    """Look at the newest events, of these types and of this scope if given."""
    found = await store.page(type, scope=_storable(scope), before=before, limit=limit)
    return EventPage(events=found, before=found[-1].seq if len(found) == limit else None)


@router.get("/dlq")
async def list_dlq(store: StoreDep, limit: Limit = 100) -> DeadLetters:
    """Look at the newest dead letters."""
    letters = [
        DeadLetterDetails.model_validate(item._asdict()) for item in await store.dlq_list(limit)
    ]
    return DeadLetters(count=len(letters), events=letters)


@router.post("/dlq/{event_id}/retry", responses=missing("dead letter"))
async def retry_dlq_event(event_id: str, store: StoreDep) -> Retrying:
    """Give a dead letter all its attempts again."""
    if not await store.dlq_retry(_storable(event_id) or ""):
        raise HTTPException(404, f"event_id: there is no dead letter {event_id!r}")
    return Retrying(status="retrying", event_id=event_id)


@router.get("/{event_id}", responses=missing("event"))
async def get_event(event_id: str, store: StoreDep) -> EventDetails:
    """Look at one event and what became of it."""
    event = await store.find(_storable(event_id) or "")
    if event is None:
        raise HTTPException(404, f"event_id: there is no event {event_id!r}")
    deliveries = [Delivery(**status._asdict()) for status in await store.status(event.id)]
    return EventDetails(event=event, recorded_at=event.recorded_at, deliveries=deliveries)


def _storable(text: str | None) -> str | None:
    """Refuse a text that PostgreSQL would not even look for."""
    if text is not None and "\x00" in text:
        raise InvalidEvent(
            "the address has a NUL character, which nothing stored has: leave it out"
        )
    return text
