"""Looking after the dead letters: of the agent, or of another subscriber."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException, Query
from pydantic import BaseModel

from ...infra.store import DeadLetter
from ...infra.store.codec import load_or_show
from .. import ids as ids  # registers the kind of path parameter
from ..deps import StoreDep
from ..errors import PROBLEMS, missing, refuse_nul

router = APIRouter(responses={**PROBLEMS, **missing("subscriber, or no such dead letter")})


class DeadLetterDetails(BaseModel):
    """An event that was given up, and why."""

    id: str
    type: str
    source: str
    scope: str
    timestamp: datetime
    recorded_at: datetime
    payload: Any
    """Its own fields, as they are stored: today's code may not be able to read it."""
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


class Retrying(BaseModel):
    """The event is due again."""

    status: Literal["retrying"]
    event_id: str


class RetryingAll(BaseModel):
    """So many events are due again."""

    status: Literal["retrying"]
    count: int


class Purged(BaseModel):
    """So many dead letters were dropped; the log keeps their events."""

    status: Literal["purged"]
    count: int


async def subscriber_of(
    store: StoreDep,
    subscriber: Annotated[
        str | None, Query(description="Whose dead letters; the agent's if left out.")
    ] = None,
) -> str:
    """Return whose dead letters a request is about.

    Raises:
        HTTPException: there is no such subscriber.
    """
    if subscriber is None:
        return store.subscriber
    known = await store.subscribers()
    if subscriber not in known:
        raise HTTPException(
            404, f"subscriber: there is no {subscriber!r}; there are {', '.join(known)}"
        )
    return subscriber


Whose = Annotated[str, Depends(subscriber_of)]


@router.get("")
async def list_dlq(
    store: StoreDep, whose: Whose, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> DeadLetters:
    """Look at the newest dead letters."""
    letters = [_details(letter, whose) for letter in await store.dlq_list(limit, subscriber=whose)]
    return DeadLetters(subscriber=whose, count=len(letters), events=letters)


@router.post("/retry")
async def retry_dlq(store: StoreDep, whose: Whose) -> RetryingAll:
    """Give all dead letters all their attempts again."""
    return RetryingAll(status="retrying", count=await store.dlq_retry_all(subscriber=whose))


@router.delete("")
async def purge_dlq(store: StoreDep, whose: Whose) -> Purged:
    """Drop all dead letters; the log keeps their events."""
    return Purged(status="purged", count=await store.dlq_purge(subscriber=whose))


@router.post("/{event_id:event_id}/retry")
async def retry_dlq_event(event_id: str, store: StoreDep, whose: Whose) -> Retrying:
    """Give a dead letter all its attempts again."""
    refuse_nul(event_id)
    if not await store.dlq_retry(event_id, subscriber=whose):
        raise _no_such(event_id, whose)
    return Retrying(status="retrying", event_id=event_id)


@router.get("/{event_id:event_id}")
async def show_dlq_event(event_id: str, store: StoreDep, whose: Whose) -> DeadLetterDetails:
    """Look at one dead letter."""
    refuse_nul(event_id)
    letter = await store.dlq_show(event_id, subscriber=whose)
    if letter is None:
        raise _no_such(event_id, whose)
    return _details(letter, whose)


@router.delete("/{event_id:event_id}")
async def purge_dlq_event(event_id: str, store: StoreDep, whose: Whose) -> Purged:
    """Drop one dead letter; the log keeps its event."""
    refuse_nul(event_id)
    count = await store.dlq_purge(event_id, subscriber=whose)
    if not count:
        raise _no_such(event_id, whose)
    return Purged(status="purged", count=count)


def _details(letter: DeadLetter, whose: str) -> DeadLetterDetails:
    stored = {"payload": load_or_show(letter.payload), "meta": load_or_show(letter.meta)}
    return DeadLetterDetails.model_validate(letter._asdict() | stored | {"subscriber": whose})


def _no_such(event_id: str, whose: str) -> HTTPException:
    return HTTPException(404, f"event_id: {whose} has no dead letter {event_id!r}")
