"""Stream events as they commit, over Server-Sent Events."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from contextvars import ContextVar
from typing import Annotated, Self

import logfire
from fastapi import APIRouter, Header, HTTPException
from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import SendTimeoutError
from starlette.types import Message as Sent
from starlette.types import Receive, Scope, Send

from ...config import Settings
from ...core.units import Seconds
from ...infra.store import Cursor, InvalidEvent
from ...infra.store.log import EventFilter
from ...infra.text import one_line
from ..auth import Reader
from ..deps import HubDep, SettingsDep, Types
from ..errors import PROBLEMS, RETRY_AFTER, refuse_nul
from ..hub import ClientTooSlow, Hub, TooManyClients
from ..messages import Message
from ..session_ends import SESSION_ENDED, session_time_left

END_TIMEOUT: Seconds = 1.0  # for the last bytes to a client that may not read
STOPS = "the service stops"
PART = 65_536  # bytes of a frame that are sent at once, before the server waits for the client
BODY = "http.response.body"
UNREAD: ContextVar[bool] = ContextVar("unread", default=False)
"""Whether this request's response was aborted because its client does not read it."""

# Uvicorn logs each incomplete response as an error of the application.
logging.getLogger("uvicorn.error").addFilter(lambda _: not UNREAD.get())

router = APIRouter(responses=PROBLEMS)


class Frame(ServerSentEvent):
    """An event whose data is one line, also for clients that split lines at Unicode line breaks."""

    def __init__(self, cursor: Cursor, message: Message) -> None:
        super().__init__(event=message.name, id=str(cursor))
        self._message = message

    def encode(self) -> bytes:
        """Return the first lines; the data, shared with other clients, follows."""
        return Head(super().encode().removesuffix(b"\r\n") + b"data: ", self._message.json)


class Head(bytes):
    """The first lines of a frame, with a reference to its data."""

    data: bytes

    def __new__(cls, head: bytes, data: bytes) -> Self:
        """Store the data without copying it."""
        made = super().__new__(cls, head)
        made.data = data
        return made

    def parts(self) -> Iterator[bytes]:
        """Yield the whole frame in parts: a connection buffers one while its client does not read."""
        yield bytes(self)
        for start in range(0, len(self.data), PART):
            yield self.data[start : start + PART]
        yield b"\r\n\r\n"


class EventStream(EventSourceResponse):
    """A response of events; a client that does not read them is disconnected."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until either side ends the response, or the session of the request ends.

        A stopping service, or the end of the session, ends it with a comment.
        """
        complete, within, reason = False, False, STOPS
        turn = asyncio.Lock()  # no ping between the parts of a frame

        async def in_parts(message: Sent) -> None:
            nonlocal complete, within
            body = message.get("body")
            async with turn:
                if not isinstance(body, Head):
                    await send(message)
                    complete = message["type"] == BODY and not message.get("more_body", False)
                    return
                within = True
                for part in body.parts():
                    await send({"type": BODY, "body": part, "more_body": True})
                within = False

        until = asyncio.timeout(session_time_left(scope))
        try:
            async with until:
                await super().__call__(scope, receive, in_parts)
        except* SendTimeoutError:
            _give_up()
        except* TimeoutError:
            if not until.expired():
                raise
            reason = SESSION_ENDED
        if not complete:  # inside a frame, a comment would be read as its data
            await _end(send, b"" if within else f": {reason}\r\n\r\n".encode())


async def _end(send: Send, last: bytes) -> None:
    """End a response; give up after `END_TIMEOUT` seconds."""
    try:
        async with asyncio.timeout(END_TIMEOUT):
            await send({"type": BODY, "body": last, "more_body": False})
    except TimeoutError:
        _give_up()


def _give_up() -> None:
    if not UNREAD.get():
        UNREAD.set(True)
        logfire.info("A stream was closed: its client does not read it")


@router.get("/stream", response_class=EventStream)
async def stream_events(
    client: Reader,
    hub: HubDep,
    settings: SettingsDep,
    type: Types = None,
    scope: str | None = None,
    last_event_id: Annotated[str | None, Header()] = None,
) -> EventStream:
    """Stream events as they commit; a client that reconnects resumes from `Last-Event-ID`.

    An event that this version cannot read has the name `unreadable`, and is sent as it is stored.
    An erased event has the name `erased`, and no content.
    """
    refuse_nul(scope, *(type or []))
    event_filter = EventFilter(type, scope, client.within)
    return stream_response(hub, settings, event_filter, last_event_id)


def stream_response(
    hub: Hub, settings: Settings, event_filter: EventFilter, last_event_id: str | None = None
) -> EventStream:
    """Return a response that streams the events of a filter, from `Last-Event-ID` on or, without one, from now on.

    Routes of yours may return it too: it has the limits of `/events/stream`.

    Raises:
        InvalidEvent: `last_event_id` is not a cursor.
        HTTPException: the process serves the maximum number of clients.
    """
    try:
        after = Cursor.parse(last_event_id) if last_event_id else None
    except ValueError as error:
        raise InvalidEvent(f"Last-Event-ID: {error}") from error
    if hub.full:
        raise HTTPException(
            503, "API_MAX_CONNECTIONS is reached; try again later", {"Retry-After": RETRY_AFTER}
        )
    return EventStream(_frames(hub, event_filter, after), send_timeout=settings.api_client_patience)


async def _frames(
    hub: Hub, event_filter: EventFilter, after: Cursor | None
) -> AsyncIterator[ServerSentEvent]:
    try:
        async with aclosing(hub.listen(event_filter, after)) as events:
            async for cursor, message in events:
                if (
                    message is None
                ):  # an id without data: a browser stores it and dispatches nothing
                    yield ServerSentEvent(id=str(cursor))
                else:
                    yield Frame(cursor, message)
    except (ClientTooSlow, TooManyClients) as error:
        yield ServerSentEvent(one_line(str(error)), event="error")
