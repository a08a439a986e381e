"""Watching events as they happen, over Server-Sent Events."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Header, HTTPException, Query
from sse_starlette import EventSourceResponse, ServerSentEvent

from ...infra.store import Cursor, InvalidEvent
from ..deps import HubDep
from ..errors import PROBLEMS
from ..hub import Hub, TooMany, TooSlow, Wants

router = APIRouter(responses=PROBLEMS)


@router.get("/stream", response_class=EventSourceResponse)
async def stream_events(
    hub: HubDep,
    type: Annotated[list[str] | None, Query()] = None,
    scope: str | None = None,
    last_event_id: Annotated[str | None, Header()] = None,
) -> EventSourceResponse:
    """Stream events as they commit; a client that reconnects goes on where it was."""
    try:
        after = Cursor.parse(last_event_id) if last_event_id else None
    except ValueError as error:
        raise InvalidEvent(f"Last-Event-ID: {error}") from error
    if hub.full:
        raise HTTPException(503, "API_MAX_CONNECTIONS is reached; try again later")
    return EventSourceResponse(_frames(hub, Wants(type, scope), after))


async def _frames(hub: Hub, wants: Wants, after: Cursor | None) -> AsyncIterator[ServerSentEvent]:
    try:
        async with aclosing(hub.listen(wants, after)) as events:
            async for cursor, event in events:
                yield ServerSentEvent(event.model_dump_json(), event=event.type, id=str(cursor))
    except (TooSlow, TooMany) as error:
        yield ServerSentEvent(str(error), event="error")
