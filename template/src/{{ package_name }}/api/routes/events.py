"""Routes that publish, list and return events."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, HTTPException, Query, Response
from pydantic import BaseModel
from pydantic_core import to_json

from ...core.events import Event
from ...infra.store import ErasedEvent, InvalidEvent, UnreadableEvent
from ...infra.store.log import EventFilter
from .. import ids as ids  # registers the path convertor
from .. import usage
from ..auth import Publisher, Reader
from ..batches import Unvalidated, read_batch
from ..deps import SettingsDep, StoreDep, Types
from ..disconnect import CancelOnDisconnectRoute
from ..errors import PROBLEMS, PUBLISHING, not_found, refuse_nul
from ..incoming import IncomingEvent

router = APIRouter(responses=PROBLEMS, route_class=CancelOnDisconnectRoute)
one = APIRouter(responses=PROBLEMS, route_class=CancelOnDisconnectRoute)
"""Matches any path below `/events`, so it is included after all other routers."""


class Accepted(BaseModel):
    """The event is stored; `duplicate` if it was stored before."""

    id: str
    status: Literal["published", "duplicate"]


class BatchAccepted(BaseModel):
    """All events are stored; `published` of them were new."""

    count: int
    published: int


class Delivery(BaseModel):
    """The state of an event for one subscriber."""

    subscriber: str
    status: str
    attempts: int
    error: str | None


class EventDetails(BaseModel):
    """An event of the log, with its deliveries."""

    event: Event | UnreadableEvent | ErasedEvent
    recorded_at: datetime
    deliveries: list[Delivery]


class EventPage(BaseModel):
    """Events, newest first; fewer than `limit`, or none, if `stopped_at` is not `limit`."""

    events: list[Event | UnreadableEvent | ErasedEvent]
    before: int | None
    """The cursor of the next page; null if there is none."""
    stopped_at: Literal["limit", "rows", "bytes"] | None
    """Why the page ends: it is full (`limit`), its filter scanned 10,000 events (`rows`), or another event
    exceeds `API_MAX_PAGE_BYTES` (`bytes`)."""


Limit = Annotated[int, Query(ge=1, le=1000)]


@router.post("", responses=PUBLISHING, response_model=Accepted)
async def publish_event(
    client: Publisher, event: Annotated[IncomingEvent, Body()], store: StoreDep
) -> Response:
    """Publish an event. Sending it again with the same id changes nothing."""
    client.require_scope(event)
    client.spend()
    usage.events.add(client)
    new = await store.publish(event)
    # Encoded here: FastAPI's validation and serialization take a tenth of the time of the request.
    accepted = {"id": event.id, "status": "published" if new else "duplicate"}
    return Response(to_json(accepted), media_type="application/json")


@router.post("/batch", responses=PUBLISHING)
async def publish_batch(
    client: Publisher,
    batch: Annotated[list[Annotated[Any, Unvalidated()]], Body()],
    store: StoreDep,
    settings: SettingsDep,
) -> BatchAccepted:
    """Publish many events: all of them or none."""
    if len(batch) > settings.api_max_batch:
        raise InvalidEvent(
            f"body: it has {len(batch)} events; send at most {settings.api_max_batch} at once"
        )
    events = await read_batch(batch)
    for index, event in enumerate(events):
        client.require_scope(event, f"{index}.")
    client.spend(len(events))
    usage.events.add(client, len(events))
    try:
        published = await store.publish_many(events)
    except InvalidEvent as error:
        raise InvalidEvent(f"{error.index}.{error}") from error  # as validation names them
    return BatchAccepted(count=len(events), published=published)


@router.get("")
async def list_events(
    client: Reader,
    store: StoreDep,
    type: Types = None,
    scope: str | None = None,
    before: Annotated[int | None, Query(ge=0, lt=2**63)] = None,
    limit: Limit = 100,
) -> EventPage:
    """List the newest events, optionally only of some types or of one scope.

    A filter scans at most 10,000 events: pass `before` until it is null. An event that this version cannot
    read is returned as it is stored, with the reason in `unreadable`. An erased event has the time of its erasure in
    `erased`, and no content.
    """
    refuse_nul(scope, *(type or []))
    page = await store.log.scan_page(EventFilter(type, scope, client.within), before, limit)
    return EventPage(events=page.events, before=page.before, stopped_at=page.stopped_at)


@one.get("/{event_id:event_id}", responses=not_found("event"))
async def get_event(client: Reader, event_id: str, store: StoreDep) -> EventDetails:
    """Return one event, with its state for each subscriber."""
    refuse_nul(event_id)
    event = await store.log.find(event_id)
    if event is None or not client.includes(event.scope):
        raise HTTPException(404, f"event_id: the event {event_id!r} does not exist")
    deliveries = [Delivery(**status._asdict()) for status in await store.status(event.id)]
    return EventDetails(event=event, recorded_at=event.recorded_at, deliveries=deliveries)
