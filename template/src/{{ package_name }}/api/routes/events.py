"""Taking events in, and looking at them."""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Body, HTTPException, Query, Response
from pydantic import BaseModel
from pydantic_core import to_json

from ...core.events import Event
from ...infra.store import InvalidEvent, UnreadableEvent
from ...infra.store.log import Wanted
from .. import ids as ids  # registers the kind of path parameter
from ..deps import SettingsDep, StoreDep
from ..errors import PROBLEMS, PUBLISHING, missing, refuse_nul
from ..incoming import IncomingEvent

router = APIRouter(responses=PROBLEMS)
one = APIRouter(responses=PROBLEMS)
"""Matches any address below `/events`, so all others come before it."""


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

    event: Event | UnreadableEvent
    recorded_at: datetime
    deliveries: list[Delivery]


class EventPage(BaseModel):
    """Events, newest first; `before` leads to the next page."""

    events: list[Event | UnreadableEvent]
    before: int | None


Limit = Annotated[int, Query(ge=1, le=1000)]


@router.post("", responses=PUBLISHING, response_model=Accepted)
async def publish_event(event: Annotated[IncomingEvent, Body()], store: StoreDep) -> Response:
    """Store an event for the agent; sending it again with the same id changes nothing."""
    new = await store.publish(event)
    # Written here: FastAPI would validate and serialize it in a tenth of the time of all this.
    accepted = {"id": event.id, "status": "published" if new else "duplicate"}
    return Response(to_json(accepted), media_type="application/json")


@router.post("/batch", responses=PUBLISHING)
async def publish_batch(
    events: list[IncomingEvent], store: StoreDep, settings: SettingsDep
) -> BatchAccepted:
    """Store many events, all or none of them."""
    if len(events) > settings.api_max_batch:
        raise InvalidEvent(
            f"body: it has {len(events)} events; send at most {settings.api_max_batch} at once"
        )
    try:
        published = await store.publish_many(events)
    except InvalidEvent as error:
        raise InvalidEvent(f"{error.index}.{error}") from error  # as validation names them
    return BatchAccepted(count=len(events), published=published)


@router.get("")
async def list_events(
    store: StoreDep,
    type: Annotated[list[str] | None, Query()] = None,
    scope: str | None = None,
    before: Annotated[int | None, Query(ge=0, lt=2**63)] = None,
    limit: Limit = 100,
) -> EventPage:
    """Look at the newest events, of these types and of this scope if given.

    What this code cannot read is there as it is stored, with the reason in `unreadable`.
    """
    refuse_nul(scope, *(type or []))
    found = await store.log.page(Wanted(type, scope), before, limit)
    return EventPage(events=found, before=found[-1].seq if len(found) == limit else None)


@one.get("/{event_id:event_id}", responses=missing("event"))
async def get_event(event_id: str, store: StoreDep) -> EventDetails:
    """Look at one event and what became of it."""
    refuse_nul(event_id)
    event = await store.log.find(event_id)
    if event is None:
        raise HTTPException(404, f"event_id: there is no event {event_id!r}")
    deliveries = [Delivery(**status._asdict()) for status in await store.status(event.id)]
    return EventDetails(event=event, recorded_at=event.recorded_at, deliveries=deliveries)
