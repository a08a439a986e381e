"""WebSockets: publish a client's messages as events, and push the agent's actions to it.

A message is `{"content": "..."}`. It may have an `id`, so that it can be sent again safely, and a `meta` with
`correlation_id` and `traceparent`. The response is `{"ack": id}` once it is stored, or `{"error": sentence}`.

An action arrives as `{"action": event, "cursor": "..."}`. To resume, connect with `?after=` and the last
cursor: each missed action is sent once, in order. `?after=0` starts at the beginning of the log. A message
with only a cursor means that the client has caught up. An action that this version cannot read arrives as
`{"unreadable": action, "cursor": "..."}`, as it is stored, with the reason.

If the decision runs an agent by `deps.stream`, its text comes first, as it is generated: `{"restart": id}` begins it, and
discards what an earlier attempt sent; `{"delta": "...", "decision": id}` appends to it. The id is that of the action.
The text may end early or be missing, since it is not stored; the action is complete.
"""

import asyncio
import contextlib
from collections.abc import Generator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any

import logfire
from fastapi import APIRouter, HTTPException, WebSocket, WebSocketDisconnect
from logfire.propagate import attach_context
from pydantic_core import to_json

from ...config import Settings
from ...core.units import Scope
from ...infra.database import DatabaseUnavailable
from ...infra.store import Cursor, EventConflict, EventStore, InvalidEvent
from ...infra.store.log import EventFilter
from ...infra.telemetry.tracing import continuing
from ...infra.text import close_reason, one_line, storable
from .. import usage
from ..auth import client_of, key_of, may_use_client
from ..clients import HTTP_FORBIDDEN
from ..clients import Client as Sender
from ..deps import HubDep, SettingsDep, StoreDep
from ..drafts import DraftQueue
from ..errors import UNAVAILABLE, error_response_of, refuse
from ..hub import ClientTooSlow, Hub, TooManyClients
from ..memory_limiter import MemoryLimiter
from ..rate_limits import RateLimited
from ..request_body import MEMORY_FULL
from ..session_ends import SessionEnded, session_time_left
from ..sessions import session_key
from ..ws_messages import parse, size_of

POLICY_VIOLATION = 1008  # close codes of the registry of RFC 6455
TRY_AGAIN_LATER = 1013
MAX_CLIENT_ID_LENGTH = 100  # characters

router = APIRouter()


@router.websocket("/{client_id}")
async def websocket_endpoint(
    websocket: WebSocket,
    client_id: str,
    store: StoreDep,
    hub: HubDep,
    settings: SettingsDep,
    after: str | None = None,
) -> None:
    """Serve one client until it disconnects."""
    try:
        sender = _sender(websocket, client_id, settings)
        cursor = _parse_start(client_id, after)
    except HTTPException as error:
        await refuse(websocket.scope, websocket.receive, websocket.send, error_response_of(error))
        return
    await websocket.accept()
    client = Client(websocket, client_id, sender, settings, websocket.app.state.memory_limiter)
    await _serve(client, store, hub, cursor)


def _sender(websocket: WebSocket, client_id: str, settings: Settings) -> Sender:
    """Return the API client of the key, if it may connect as this WebSocket client.

    Raises:
        HTTPException: it may not.
    """
    sender = client_of(websocket)
    key = session_key(websocket.scope) or key_of(settings, websocket.headers.get("authorization"))
    if sender is None or not may_use_client(key or "", client_id):
        raise HTTPException(HTTP_FORBIDDEN, "Authorization: send a valid key as `Bearer <key>`")
    sender.require("publish", "read")
    if not sender.includes(f"ws:{client_id}"):
        raise HTTPException(
            HTTP_FORBIDDEN,
            f"client_id: the client {sender.name!r} may not use the scope 'ws:{client_id}'; use another id",
        )
    return sender


def _parse_start(client_id: str, after: str | None) -> Cursor | None:
    """Return the cursor from which a WebSocket client resumes; None to start now.

    Raises:
        HTTPException: the client's id or cursor is not valid.
    """
    if len(client_id) > MAX_CLIENT_ID_LENGTH or "\x00" in client_id:
        raise HTTPException(HTTP_FORBIDDEN, "client_id: use at most 100 characters, no NUL")
    try:
        return Cursor.parse(after) if after else None
    except ValueError as error:
        raise HTTPException(HTTP_FORBIDDEN, f"after: {error}") from error


@dataclass
class Client:
    """A connected WebSocket client."""

    websocket: WebSocket
    id: str
    sender: Sender
    """The API client of its key."""
    settings: Settings
    memory: MemoryLimiter

    @property
    def scope(self) -> Scope:
        """The scope of its messages."""
        return f"ws:{self.id}"

    async def send_json(self, message: dict[str, Any]) -> None:
        """Send a message as JSON.

        Raises:
            ClientTooSlow: the client does not read it within `API_CLIENT_PATIENCE`.
        """
        await self.send_line(one_line(to_json(message).decode()))

    async def send_line(self, line: str) -> None:
        """Send one line of JSON.

        Raises:
            ClientTooSlow: the client does not read it within `API_CLIENT_PATIENCE`.
        """
        try:
            async with asyncio.timeout(self.settings.api_client_patience):
                await self.websocket.send_text(line)
        except TimeoutError as error:
            raise ClientTooSlow("the client does not read its messages") from error


async def _serve(client: Client, store: EventStore, hub: Hub, after: Cursor | None) -> None:
    """Receive and push concurrently; when one of them or the session ends, the others are cancelled."""
    logfire.info("WebSocket connected", client_id=client.id)
    drafts = DraftQueue()
    tasks = [
        asyncio.create_task(_receive(client, store)),
        asyncio.create_task(_push(client, hub, after, drafts)),
        asyncio.create_task(_push_drafts(client, store, drafts)),
    ]
    try:
        left = session_time_left(client.websocket.scope)
        ended, _ = await asyncio.wait(tasks, timeout=left, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    errors = [result for result in results if isinstance(result, Exception)]
    await _log_disconnect(client, errors if ended else [*errors, SessionEnded()])


async def _log_disconnect(client: Client, errors: list[Exception]) -> None:
    """Log the end of a connection; send the reason unless the client ended it."""
    for error in errors:
        if isinstance(error, ClientTooSlow | TooManyClients | RateLimited | SessionEnded):
            reason = error.detail if isinstance(error, RateLimited) else str(error)
            code = POLICY_VIOLATION if isinstance(error, SessionEnded) else TRY_AGAIN_LATER
            with contextlib.suppress(TimeoutError, WebSocketDisconnect):
                async with asyncio.timeout(client.settings.api_client_patience):
                    await client.websocket.close(code, close_reason(reason))
        elif not isinstance(error, WebSocketDisconnect):
            logfire.error("WebSocket failed: {error}", error=repr(error), client_id=client.id)
    reasons = [str(error) for error in errors]
    logfire.info("WebSocket disconnected", client_id=client.id, reasons=reasons)


@contextmanager
def _message_span(name: str, client: Client) -> Generator[None]:
    """Trace one message; a client that disconnects or does not read is not recorded as an error."""
    interrupted: BaseException | None = None
    with logfire.span(name, client_id=client.id):
        try:
            yield
        except (asyncio.CancelledError, WebSocketDisconnect, ClientTooSlow) as error:
            interrupted = error
    if interrupted is not None:
        raise interrupted


async def _receive(client: Client, store: EventStore) -> None:
    while True:
        message = await client.websocket.receive()
        if message["type"] == "websocket.disconnect":
            return
        text = message.get("text")
        if text is None:
            await client.send_json({"error": "message: it is binary; send JSON as text"})
        else:
            # One trace per message: a trace of the connection would last until the client disconnects.
            with attach_context({}), _message_span("ws.receive", client):
                answer = await _answer(text, client, store)
            await client.send_json(answer)


async def _answer(text: str, client: Client, store: EventStore) -> dict[str, Any]:
    """Publish one message as an event, and return the response."""
    try:
        size = size_of(text, client.settings.api_max_body_bytes, client.memory)
        if not client.memory.try_acquire(size):
            return {"error": MEMORY_FULL}
        try:
            event = parse(text, client.id)
            client.sender.spend()
            await store.publish(event)
            usage.events.add(client.sender)
        finally:
            client.memory.release(size)
    except (InvalidEvent, EventConflict) as error:
        return {"error": storable(str(error))}
    except DatabaseUnavailable as error:
        logfire.warn("The database is unavailable: {error}", error=str(error))
        return {"error": UNAVAILABLE}
    return {"ack": event.id}


async def _push(client: Client, hub: Hub, after: Cursor | None, drafts: DraftQueue) -> None:
    event_filter = EventFilter(["agent.action"], client.scope)
    async with aclosing(hub.listen(event_filter, after)) as events:
        async for cursor, message in events:
            place = f'"cursor":{to_json(str(cursor)).decode()}'
            if message is None:
                await client.send_line("{" + place + "}")
                continue
            name = message.label or "action"
            drafts.end(message.id)
            with continuing(message.traceparent), _message_span("ws.push", client):
                await client.send_line("{" + f'"{name}":{message.json.decode()},{place}' + "}")


async def _push_drafts(client: Client, store: EventStore, drafts: DraftQueue) -> None:
    with store.drafts.receiving(client.scope, drafts.put):
        async with aclosing(drafts.messages()) as messages:
            async for message in messages:
                await client.send_json(message)
