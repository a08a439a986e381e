"""Talking with one client: its messages become events, and the agent's actions come back.

Each message is `{"content": "..."}`, optionally with an `id` so that it can be sent again safely,
and is answered by `{"ack": id}` once it is stored or by `{"error": sentence}`. Actions arrive as
`{"action": event, "cursor": "..."}`. Connect with `?after=` and the last cursor seen to get what was
missed since, each action once and in order; `?after=0` gives all from the beginning. A message with
nothing but a cursor says that the client has caught up. An action that this code cannot read comes as
`{"unreadable": action, "cursor": "..."}`, as it is stored and with the reason.
"""

import asyncio
import contextlib
import json
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import logfire
from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from logfire.propagate import attach_context
from pydantic import ValidationError

from ...config import Settings
from ...core.events import WebSocketEvent
from ...infra.database import DatabaseUnavailable
from ...infra.store import Cursor, EventConflict, EventStore, InvalidEvent, UnreadableEvent
from ...infra.text import shorten, storable
from ...infra.tracing import continuing
from ..auth import key_of, may_use_client
from ..deps import HubDep, SettingsDep, StoreDep
from ..errors import UNAVAILABLE, sentence_of
from ..hub import Hub, TooMany, TooSlow, Wants
from ..ids import refusal_of

POLICY_VIOLATION, TRY_AGAIN_LATER = 1008, 1013  # close codes of RFC 6455 and its registry
LONGEST_CLIENT_ID = 100  # characters
LONGEST_REASON = 123  # bytes of a close frame's reason (RFC 6455)

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
    """Serve one client until it leaves."""
    key = key_of(settings, websocket.headers.get("authorization"))
    if key is None or not may_use_client(key, client_id):
        await _close(websocket, POLICY_VIOLATION, "send a valid key as `Authorization: Bearer`")
        return
    if len(client_id) > LONGEST_CLIENT_ID or "\x00" in client_id:
        await _close(websocket, POLICY_VIOLATION, "client_id: use at most 100 characters, no NUL")
        return
    try:
        cursor = Cursor.parse(after) if after else None
    except ValueError as error:
        await _close(websocket, POLICY_VIOLATION, str(error))
        return
    await websocket.accept()
    client = Client(websocket, client_id, settings)
    await _serve(client, store, hub, cursor)


async def _close(websocket: WebSocket, code: int, reason: str) -> None:
    await websocket.close(code, shorten(reason, LONGEST_REASON))


@dataclass
class Client:
    """Somebody who is connected."""

    websocket: WebSocket
    id: str
    settings: Settings

    async def tell(self, message: dict[str, Any]) -> None:
        """Send a message.

        Raises:
            TooSlow: the client does not take it.
        """
        try:
            async with asyncio.timeout(self.settings.api_client_patience):
                await self.websocket.send_json(message)
        except TimeoutError as error:
            raise TooSlow("the client does not read its messages") from error


async def _serve(client: Client, store: EventStore, hub: Hub, after: Cursor | None) -> None:
    """Receive and push at the same time; whichever ends first ends the other."""
    logfire.info("WebSocket connected", client_id=client.id)
    tasks = [
        asyncio.create_task(_receive(client, store)),
        asyncio.create_task(_push(client, hub, after)),
    ]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    await _part(client, [result for result in results if isinstance(result, Exception)])


async def _part(client: Client, errors: list[Exception]) -> None:
    """Say why the connection ends, if it is not the client that ended it."""
    for error in errors:
        if isinstance(error, TooSlow | TooMany):
            with contextlib.suppress(TimeoutError, WebSocketDisconnect):
                async with asyncio.timeout(client.settings.api_client_patience):
                    await _close(client.websocket, TRY_AGAIN_LATER, str(error))
        elif not isinstance(error, WebSocketDisconnect):
            logfire.error("WebSocket failed: {error}", error=repr(error), client_id=client.id)
    reasons = [str(error) for error in errors]
    logfire.info("WebSocket disconnected", client_id=client.id, reasons=reasons)


async def _receive(client: Client, store: EventStore) -> None:
    while True:
        message = await client.websocket.receive()
        if message["type"] == "websocket.disconnect":
            return
        text = message.get("text")
        if text is None:
            await client.tell({"error": "message: it is binary; send JSON as text"})
        else:
            # A trace for each message: the connection's own would last as long as the client stays.
            with attach_context({}), logfire.span("ws.receive", client_id=client.id):
                answer = await _answer(text, client, store)
            await client.tell(answer)


async def _answer(text: str, client: Client, store: EventStore) -> dict[str, Any]:
    """Store one message and say what to tell its sender."""
    try:
        event = _parse(text, client)
        await store.publish(event)
    except (InvalidEvent, EventConflict) as error:
        return {"error": storable(str(error))}
    except DatabaseUnavailable as error:
        logfire.warn("The database is unavailable: {error}", error=str(error))
        return {"error": UNAVAILABLE}
    return {"ack": event.id}


def _parse(text: str, client: Client) -> WebSocketEvent:
    max_bytes = client.settings.api_max_body_bytes
    if len(text.encode(errors="replace")) > max_bytes:
        raise InvalidEvent(f"message: it is larger than {max_bytes} bytes; send less")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:  # the latter for a thousand brackets
        raise InvalidEvent('message: it is not JSON; send {"content": "..."}') from error
    if not isinstance(data, dict) or "content" not in data:
        raise InvalidEvent('content: it is missing; send {"content": "..."}')
    fields: dict[str, Any] = {name: data[name] for name in ("id", "content") if name in data}
    try:
        event = WebSocketEvent(source=f"ws:{client.id}", connection_id=client.id, **fields)
    except ValidationError as error:
        raise InvalidEvent(sentence_of(error.errors())) from error
    if refusal := refusal_of(event.id):
        raise InvalidEvent(refusal)
    return event


async def _push(client: Client, hub: Hub, after: Cursor | None) -> None:
    wants = Wants(["agent.action"], f"ws:{client.id}")
    async with aclosing(hub.listen(wants, after)) as events:
        async for cursor, event in events:
            if event is None:
                await client.tell({"cursor": str(cursor)})
                continue
            action = event.model_dump(mode="json")
            if isinstance(event, UnreadableEvent):
                await client.tell({"unreadable": action, "cursor": str(cursor)})
                continue
            with continuing(event), logfire.span("ws.push", client_id=client.id):
                await client.tell({"action": action, "cursor": str(cursor)})
