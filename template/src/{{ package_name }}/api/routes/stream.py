"""Watching events as they happen, over Server-Sent Events."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from contextvars import ContextVar
from typing import Annotated

import logfire
from fastapi import APIRouter, Header, HTTPException, Query
from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import SendTimeoutError
from starlette.types import Message, Receive, Scope, Send

from ...core.types import Seconds
from ...infra.store import Cursor, InvalidEvent, UnreadableEvent
from ..deps import HubDep, SettingsDep
from ..errors import PROBLEMS, refuse_nul
from ..hub import Hub, TooMany, TooSlow, Wants

GOODBYE: Seconds = 1.0  # a client that does not read may keep a stop from its end for no longer
BODY = "http.response.body"
UNREAD: ContextVar[bool] = ContextVar("unread", default=False)
"""Whether this request's response was given up, because its client does not read it."""

# The server reports each response that is not complete as an error of ours.
logging.getLogger("uvicorn.error").addFilter(lambda _: not UNREAD.get())

router = APIRouter(responses=PROBLEMS)


class EventStream(EventSourceResponse):
    """Events as they happen; a client that does not read them is disconnected."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until either side ends it; a service that stops ends the response with a comment."""
        complete = False

        async def noting_the_end(message: Message) -> None:
            nonlocal complete
            await send(message)
            complete = message["type"] == BODY and not message.get("more_body", False)

        try:
            await super().__call__(scope, receive, noting_the_end)
        except* SendTimeoutError:
            _give_up()
        if not complete:
            await _say_goodbye(send)


async def _say_goodbye(send: Send) -> None:
    """End a response; a client that is gone, or does not read, misses nothing."""
    try:
        async with asyncio.timeout(GOODBYE):
            await send({"type": BODY, "body": b": the service stops\r\n\r\n", "more_body": False})
    except TimeoutError:
        _give_up()


def _give_up() -> None:
    if not UNREAD.get():
        UNREAD.set(True)
        logfire.info("A stream ended: its client does not read it")


@router.get("/stream", response_class=EventStream)
async def stream_events(
    hub: HubDep,
    settings: SettingsDep,
    type: Annotated[list[str] | None, Query()] = None,
    scope: str | None = None,
    last_event_id: Annotated[str | None, Header()] = None,
) -> EventStream:
    """Stream events as they commit; a client that reconnects goes on where it was.

    An event that this code cannot read comes under the name `unreadable`, as it is stored.
    """
    refuse_nul(scope, *(type or []))
    try:
        after = Cursor.parse(last_event_id) if last_event_id else None
    except ValueError as error:
        raise InvalidEvent(f"Last-Event-ID: {error}") from error
    if hub.full:
        raise HTTPException(503, "API_MAX_CONNECTIONS is reached; try again later")
    frames = _frames(hub, Wants(type, scope), after)
    return EventStream(frames, send_timeout=settings.api_client_patience)


async def _frames(hub: Hub, wants: Wants, after: Cursor | None) -> AsyncIterator[ServerSentEvent]:
    try:
        async with aclosing(hub.listen(wants, after)) as events:
            async for cursor, event in events:
                if event is None:  # an id without data: a browser keeps it and shows nothing
                    yield ServerSentEvent(id=str(cursor))
                else:
                    name = "unreadable" if isinstance(event, UnreadableEvent) else event.type
                    yield ServerSentEvent(event.model_dump_json(), event=name, id=str(cursor))
    except (TooSlow, TooMany) as error:
        yield ServerSentEvent(str(error), event="error")
