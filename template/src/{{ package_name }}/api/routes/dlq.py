"""Routes that list, retry and purge dead letters of the agent or another subscriber."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException, Query
from pydantic import BaseModel

from ...infra.store import DeadLetter, InvalidEvent
from ...infra.store.codec import load_json_or_text
from ...infra.store.dead_letters import DeadLetterCursor
from .. import ids as ids  # registers the path convertor
from ..auth import Operator, Reader
from ..deps import StoreDep
from ..disconnect import CancelOnDisconnectRoute
from ..errors import PROBLEMS, not_found, refuse_nul

router = APIRouter(
    responses={**PROBLEMS, **not_found("subscriber, or no such dead letter")},
    route_class=CancelOnDisconnectRoute,
)


class DeadLetterDetails(BaseModel):
    """A dead letter: its event, and the last error."""

    id: str
    type: str
    source: str
    scope: str
    timestamp: datetime
    recorded_at: datetime
    payload: Any
    """Its own fields, as they are stored: this version may not be able to read them."""
    meta: Any
    subscriber: str
    attempts: int
    error: str | None
    traceback: str | None
    dead_at: datetime


class DeadLetters(BaseModel):
    """The newest dead letters of a subscriber."""

    subscriber: str
    count: int
    events: list[DeadLetterDetails]
    before: str | None
    """The cursor of the next page; null if there is none."""
    stopped_at: Literal["limit", "bytes"] | None
    """Why the page ends: it is full (`limit`), or another event exceeds `API_MAX_PAGE_BYTES` (`bytes`)."""


class Retrying(BaseModel):
    """The event is due again."""

    status: Literal["retrying"]
    event_id: str


class RetryingAll(BaseModel):
    """The number of events that are due again."""

    status: Literal["retrying"]
    count: int


class Purged(BaseModel):
    """The number of purged dead letters; the log keeps their events."""

    status: Literal["purged"]
    count: int


async def subscriber_of(
    store: StoreDep,
    subscriber: Annotated[
        str | None, Query(description="The subscriber of the dead letters; by default the agent.")
    ] = None,
) -> str:
    """Return the subscriber of a request.

    Raises:
        HTTPException: the subscriber does not exist.
    """
    if subscriber is None:
        return store.subscriber
    known = await store.admin.subscribers()
    if subscriber not in known:
        raise HTTPException(
            404, f"subscriber: {subscriber!r} does not exist; use one of {', '.join(known)}"
        )
    return subscriber


Whose = Annotated[str, Depends(subscriber_of)]


@router.get("")
async def list_dlq(
    client: Reader,
    store: StoreDep,
    whose: Whose,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    before: str | None = None,
) -> DeadLetters:
    """List the newest dead letters; for older ones, pass `before` until it is null."""
    try:
        place = None if before is None else DeadLetterCursor.parse(before)
    except ValueError as error:
        raise InvalidEvent(str(error)) from error
    page = await store.admin.dlq_page(limit, before=place, subscriber=whose, within=client.within)
    return DeadLetters(
        subscriber=whose,
        count=len(page.letters),
        events=[_details(letter, whose) for letter in page.letters],
        before=None if page.before is None else str(page.before),
        stopped_at=page.stopped_at,
    )


@router.post("/retry")
async def retry_dlq(client: Operator, store: StoreDep, whose: Whose) -> RetryingAll:
    """Retry all dead letters, each with all its attempts."""
    count = await store.dlq_retry_all(subscriber=whose, within=client.within, by=client.name)
    return RetryingAll(status="retrying", count=count)


@router.delete("")
async def purge_dlq(client: Operator, store: StoreDep, whose: Whose) -> Purged:
    """Purge all dead letters; the log keeps their events."""
    count = await store.dlq_purge(subscriber=whose, within=client.within, by=client.name)
    return Purged(status="purged", count=count)


@router.post("/{event_id:event_id}/retry")
async def retry_dlq_event(
    client: Operator, event_id: str, store: StoreDep, whose: Whose
) -> Retrying:
    """Retry one dead letter, with all its attempts."""
    refuse_nul(event_id)
    retried = await store.dlq_retry(
        event_id, subscriber=whose, within=client.within, by=client.name
    )
    if not retried:
        raise _no_such(event_id, whose)
    return Retrying(status="retrying", event_id=event_id)


@router.get("/{event_id:event_id}")
async def show_dlq_event(
    client: Reader, event_id: str, store: StoreDep, whose: Whose
) -> DeadLetterDetails:
    """Return one dead letter."""
    refuse_nul(event_id)
    letter = await store.dlq_show(event_id, subscriber=whose, within=client.within)
    if letter is None:
        raise _no_such(event_id, whose)
    return _details(letter, whose)


@router.delete("/{event_id:event_id}")
async def purge_dlq_event(client: Operator, event_id: str, store: StoreDep, whose: Whose) -> Purged:
    """Purge one dead letter; the log keeps its event."""
    refuse_nul(event_id)
    count = await store.dlq_purge(event_id, subscriber=whose, within=client.within, by=client.name)
    if not count:
        raise _no_such(event_id, whose)
    return Purged(status="purged", count=count)


def _details(letter: DeadLetter, whose: str) -> DeadLetterDetails:
    stored = {"payload": load_json_or_text(letter.payload), "meta": load_json_or_text(letter.meta)}
    return DeadLetterDetails.model_validate(letter._asdict() | stored | {"subscriber": whose})


def _no_such(event_id: str, whose: str) -> HTTPException:
    return HTTPException(404, f"event_id: {whose} has no dead letter {event_id!r}")
