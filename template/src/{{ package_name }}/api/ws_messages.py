"""Reads the messages of WebSocket clients as events."""

import json
from typing import Any

from pydantic import ValidationError

from ..core.events import WebSocketEvent
from ..infra.store import InvalidEvent
from .errors import format_errors
from .ids import id_error
from .incoming import allowed_meta
from .memory_limiter import MemoryLimiter, weight


def size_of(text: str, max_bytes: int, memory: MemoryLimiter) -> int:
    """Return an upper bound of the memory of a message, in bytes.

    Raises:
        InvalidEvent: the message is too large.
    """
    data = text.encode(errors="replace")
    if len(data) > max_bytes:
        raise InvalidEvent(f"message: it is larger than {max_bytes} bytes; send less")
    if (size := weight(data)) > memory.limit // 2:
        raise InvalidEvent("message: it has too many values for API_MAX_INTAKE_BYTES; send less")
    return size


def parse(text: str, client_id: str) -> WebSocketEvent:
    """Return the event of a client's message.

    Raises:
        InvalidEvent: the message is not valid.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:  # RecursionError for a thousand nested brackets
        raise InvalidEvent('message: it is not JSON; send {"content": "..."}') from error
    if not isinstance(data, dict) or "content" not in data:
        raise InvalidEvent('content: it is missing; send {"content": "..."}')
    fields: dict[str, Any] = {name: data[name] for name in ("id", "content") if name in data}
    if "meta" in data:
        fields["meta"] = allowed_meta(data["meta"])
    try:
        event = WebSocketEvent(source=f"ws:{client_id}", connection_id=client_id, **fields)
    except ValidationError as error:
        raise InvalidEvent(format_errors(error.errors())) from error
    if refusal := id_error(event.id):
        raise InvalidEvent(refusal)
    return event
