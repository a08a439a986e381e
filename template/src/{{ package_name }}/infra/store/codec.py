"""Between an event and its row."""

from datetime import UTC, datetime
from typing import Any, NamedTuple, cast

import logfire
from pydantic import ValidationError
from pydantic_core import PydanticSerializationError, from_json, to_json

from ...core.events import NEWER, Event, event_adapter
from ..database import Row

COLUMNS = {"id", "type", "source", "scope", "timestamp", "meta"}  # the rest is the payload
EVENT_COLUMNS = (
    "e.seq, e.id, e.type, e.source, e.scope, e.timestamp, e.payload, e.headers, e.recorded_at"
)


class InvalidEvent(ValueError):
    """The event cannot be stored as it is; the message names the field and the remedy."""


class NewerEvent(Exception):
    """The event has a version of its type that this code does not know yet."""


class Encoded(NamedTuple):
    """An event's columns, ready for the database."""

    id: str
    type: str
    source: str
    scope: str
    timestamp: Any  # a datetime; the driver's stubs want no narrower type in a row of parameters
    payload: str
    headers: str


def encode(event: Event, traceparent: str | None = None) -> Encoded:
    """Return the event's columns; it becomes part of a trace unless it is part of another.

    Raises:
        InvalidEvent: a value cannot be stored: a NUL character, or a broken one.
    """
    meta = event.meta
    if traceparent is not None and meta.traceparent is None:
        meta = meta.model_copy(update={"traceparent": traceparent})
    try:
        payload = to_json(event, exclude=COLUMNS).decode()
        headers = to_json(meta, exclude_none=True).decode()
    except PydanticSerializationError:
        _refuse_unstorable(event.model_dump(), "")
        raise
    named = f"{event.id}{event.type}{event.source}{event.scope}"
    if "\\u0000" in payload or "\\u0000" in headers or not named.isascii() or "\x00" in named:
        _refuse_unstorable(event.model_dump(), "")  # it may be innocent, and knows the field if not
    return Encoded(
        event.id, event.type, event.source, event.scope, _utc(event.timestamp), payload, headers
    )


def _utc(timestamp: datetime) -> datetime:
    try:
        return timestamp.astimezone(UTC)
    except OverflowError as error:
        raise InvalidEvent("timestamp: it is too early or too late to be stored") from error


def decode(row: Row) -> Event:
    """Return the event of a row of `EVENT_COLUMNS`, in today's shape.

    Raises:
        NewerEvent: it was written by newer code than this.
        pydantic.ValidationError: its type, or its shape, is no longer known.
    """
    fields: dict[str, Any] = {
        **load_json(row["payload"]),
        "id": row["id"],
        "type": row["type"],
        "source": row["source"],
        "scope": row["scope"],
        "timestamp": row["timestamp"],
        "meta": load_json(row["headers"]),
    }
    try:
        event = event_adapter.validator.validate_python(fields)  # past options that nobody sets
    except ValidationError as error:
        if error.errors()[0]["type"] == NEWER:
            raise NewerEvent(
                f"{row['id']}: {row['type']} has version {fields['version']}"
            ) from error
        raise
    event.stamp(row["seq"], row["recorded_at"])
    return event


def decode_known(row: Row) -> Event | None:
    """Return the event of a row, or None, with a warning, if its shape is no longer known."""
    try:
        return decode(row)
    except (ValidationError, NewerEvent) as error:
        logfire.warn("Event {id} is of no known shape: {error}", id=row["id"], error=str(error))
        return None


def load_json(value: Any) -> dict[str, Any]:
    """Read a `jsonb` column, which some connections decode and others leave as text."""
    return from_json(value) if isinstance(value, (str, bytes)) else value


def _refuse_unstorable(value: object, field: str) -> None:
    """Refuse what JSON can carry and PostgreSQL cannot, saying where it stands."""
    if isinstance(value, str):
        if not value.isascii() and value.encode(errors="ignore").decode() != value:
            raise InvalidEvent(f"{field}: it has half a character (a lone surrogate): correct it")
        if "\x00" in value:
            raise InvalidEvent(
                f"{field}: it has a NUL character, which cannot be stored: leave it out"
            )
    elif isinstance(value, dict):
        for key, item in cast("dict[str, object]", value).items():
            _refuse_unstorable(key, f"a key of {field or 'the event'}")
            _refuse_unstorable(item, f"{field}.{key}" if field else key)
    elif isinstance(value, list):
        for index, item in enumerate(cast("list[object]", value)):
            _refuse_unstorable(item, f"{field}[{index}]")
