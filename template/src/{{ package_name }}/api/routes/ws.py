"""Talking with one client: its messages become events, and the agent's actions come back.

Each message is `{"content": "..."}`, optionally with an `id` so that it can be sent again safely,
and is answered by `{"ack": id}` once it is stored or by `{"error": sentence}`. Actions arrive as
`{"action": event, "cursor": "..."}`; connect with `?after=<cursor>` to get those missed since.
"""

import asyncio
import json
from contextlib import aclosing
from typing import Any

import logfire
from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from logfire.propagate import attach_context
from pydantic import ValidationError

from ...core.events import WebSocketEvent
from ...infra.database import DATABASE_AWAY
from ...infra.store import Cursor, EventConflict, EventStore, InvalidEvent
from ...infra.tracing import continuing
from ..auth import key_of, may_use_client
from ..deps import HubDep, SettingsDep, StoreDep
from ..errors import sentence_of
from ..hub import Hub, TooMany, TooSlow, Wants

POLICY_VIOLATION, TRY_AGAIN_LATER = 1008, 1013  # close codes of RFC 6455 and its registry
LONGEST_CLIENT_ID = 100  # characters

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
        await websocket.close(POLICY_VIOLATION, "send a valid key as `Authorization: Bearer <key>`")
        return
    if len(client_id) > LONGEST_CLIENT_ID or "\x00" in client_id:
        await websocket.close(POLICY_VIOLATION, "client_id: use at most 100 characters and no NUL")
        return
    try:
        cursor = Cursor.parse(after) if after else None
    except ValueError as error:
        await websocket.close(POLICY_VIOLATION, str(error))
        return
    await websocket.accept()
    await _serve(websocket, client_id, store, hub, cursor, settings.api_max_body_bytes)


async def _serve(
    websocket: WebSocket,
    client_id: str,
    store: EventStore,
    hub: Hub,
    after: Cursor | None,
    max_bytes: int,
) -> None:
    """Receive and push at the same time; whichever ends first ends the other."""
    logfire.info("WebSocket connected", client_id=client_id)
    tasks = [
        asyncio.create_task(_receive(websocket, client_id, store, max_bytes)),
        asyncio.create_task(_push(websocket, client_id, hub, after)),
    ]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception) and not isinstance(result, WebSocketDisconnect):
            logfire.error("WebSocket failed: {error}", error=repr(result), client_id=client_id)
    logfire.info("WebSocket disconnected", client_id=client_id)


async def _receive(websocket: WebSocket, client_id: str, store: EventStore, max_bytes: int) -> None:
    while True:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            return
        text = message.get("text")
        if text is None:
            await websocket.send_json({"error": "message: it is binary; send JSON as text"})
        else:
            # A trace for each message: the connection's own would last as long as the client stays.
            with attach_context({}), logfire.span("ws.receive", client_id=client_id):
                answer = await _answer(text, client_id, store, max_bytes)
            await websocket.send_json(answer)


async def _answer(text: str, client_id: str, store: EventStore, max_bytes: int) -> dict[str, Any]:
    """Store one message and say what to tell its sender."""
    try:
        event = _parse(text, client_id, max_bytes)
        await store.publish(event)
    except (InvalidEvent, EventConflict) as error:
        return {"error": str(error)}
    except DATABASE_AWAY as error:
        logfire.warn("The database is away: {error}", error=repr(error))
        return {
            "error": "The database cannot be reached just now; nothing was stored, send it again."
        }
    return {"ack": event.id}


def _parse(text: str, client_id: str, max_bytes: int) -> WebSocketEvent:
    if len(text.encode(errors="replace")) > max_bytes:
        raise InvalidEvent(f"message: it is larger than {max_bytes} bytes; send less")
    try:
        data = json.loads(text)
    except ValueError as error:
        raise InvalidEvent('message: it is not JSON; send {"content": "..."}') from error
    if not isinstance(data, dict) or "content" not in data:
        raise InvalidEvent('content: it is missing; send {"content": "..."}')
    fields: dict[str, Any] = {name: data[name] for name in ("id", "content") if name in data}
    try:
        return WebSocketEvent(source=f"ws:{client_id}", connection_id=client_id, **fields)
    except ValidationError as error:
        raise InvalidEvent(sentence_of(error.errors())) from error


async def _push(websocket: WebSocket, client_id: str, hub: Hub, after: Cursor | None) -> None:
    wants = Wants(["agent.action"], f"ws:{client_id}")
    try:
        async with aclosing(hub.listen(wants, after)) as events:
            async for cursor, event in events:
                action = event.model_dump(mode="json")
                with continuing(event), logfire.span("ws.push", client_id=client_id):
                    await websocket.send_json({"action": action, "cursor": str(cursor)})
    except (TooSlow, TooMany) as error:
        await websocket.close(TRY_AGAIN_LATER, str(error))
