"""Between an event and its row. What is written is read back first: nothing is stored that readers cannot read."""

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple

import logfire
from pydantic import AwareDatetime, BaseModel, ValidationError
from pydantic_core import PydanticSerializationError, from_json, to_json

from ...config import Settings
from ...core.events import NEWER, Event, EventMeta, event_adapter
from ..database import Row
from ..text import REPLACEMENT, describe, storable
from .refusal import (
    STRING,
    InvalidEvent,
    find_unstorable,
    nesting,
    refuse_large,
    refuse_nested,
    refuse_unwritable,
)

COLUMNS = {"id", "type", "source", "scope", "timestamp", "meta"}  # the rest is the payload
EVENT_COLUMNS = (
    "e.seq, e.id, e.type, e.source, e.scope, e.timestamp, e.payload, e.headers, e.recorded_at"
)
LEAST_BYTES = 1_000_000  # a small limit for requests must not refuse what the agent publishes
SHOWN_ERRORS = 5  # of an event that has many
BEYOND = (
    "timestamp: it is too early or too late to be stored: send when it happened, or leave it out"
)
# The driver stores these two as PostgreSQL's infinities.
INFINITE = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))

# How the library begins the exponent of a large float: `e+`, or `e` in its older versions.
EXPONENT = to_json(1e300).removeprefix(b"1").removesuffix(b"300").decode()
LARGE_FLOAT = re.compile(rf"{STRING}|-?\d+(?:\.\d+)?[eE]\+?\d+", re.DOTALL)


class Unreadable(Exception):
    """The row of an event cannot be read by this code; the message is the reason in one sentence."""


class NewerEvent(Exception):
    """The event has a version of its type that this code does not know yet."""


class UnreadableEvent(BaseModel):
    """An event of the log that this code cannot read, as it is stored, with the reason."""

    seq: int
    id: str
    type: str
    source: str
    scope: str
    timestamp: AwareDatetime
    recorded_at: AwareDatetime
    payload: Any
    """As it is stored; a text if it is no JSON that can be read."""
    meta: Any
    unreadable: str
    """Why it cannot be read."""


type Stored = Event | UnreadableEvent
"""What a row of the log is to a reader."""


class Limits(NamedTuple):
    """What may be published."""

    depth: int
    """The longest chain of events that cause each other."""
    nesting: int
    """The most levels of arrays and objects in an event's JSON, its own object included."""
    size: int
    """The most bytes that an event's payload and headers may take."""

    @classmethod
    def of(cls, settings: Settings) -> "Limits":
        """Return the limits of these settings."""
        size = settings.event_max_bytes or max(settings.api_max_body_bytes, LEAST_BYTES)
        return cls(settings.event_max_depth, settings.event_max_nesting, size)

    def beside(self, ids: list[str]) -> "Limits":
        """Return the limits of an action that names these events: their number is no fault of its."""
        return self._replace(size=self.size + sum(len(each.encode()) + 3 for each in ids))


class Encoded(NamedTuple):
    """An event's columns, ready for the database."""

    id: str
    type: str
    source: str
    scope: str
    timestamp: Any  # a datetime; the driver's stubs want no narrower type in a row of parameters
    payload: str
    headers: str


def encode(event: Event, limits: Limits, traceparent: str | None = None) -> Encoded:
    """Return the event's columns; it becomes part of a trace unless it is part of another.

    Raises:
        InvalidEvent: a value cannot be stored, or the columns cannot be read back.
    """
    try:
        payload = to_json(event, exclude=COLUMNS).decode()
        headers = to_json(event.meta, exclude_none=True).decode()
    except PydanticSerializationError as error:
        raise refuse_unwritable(event, error, limits.nesting) from error
    if traceparent is not None and event.meta.traceparent is None:
        # To copy a model for one field takes a tenth of the time that a batch does.
        headers = f'{headers[:-1]},"traceparent":{to_json(traceparent).decode()}' + "}"
    _refuse_deep(event, payload, limits)
    _refuse_characters(event, payload, headers)
    if EXPONENT in payload:
        payload = LARGE_FLOAT.sub(_in_full, payload)
    _refuse_large(event, payload, headers, limits)
    encoded = Encoded(
        event.id, event.type, event.source, event.scope, _utc(event.timestamp), payload, headers
    )
    try:
        read = reread(encoded)
    except (Unreadable, NewerEvent) as error:
        raise InvalidEvent(str(error)) from error
    if (read.id, read.source, read.scope) != (event.id, event.source, event.scope):
        raise InvalidEvent("id, source, scope: one of them is no text: correct it")
    return encoded


def _refuse_deep(event: Event, payload: str, limits: Limits) -> None:
    if payload.count("{") + payload.count("[") > limits.nesting:  # brackets within text count, too
        levels = nesting(payload)
        if levels > limits.nesting:
            raise refuse_nested(event, levels, limits.nesting)


def _refuse_characters(event: Event, payload: str, headers: str) -> None:
    """Refuse what JSON or Python can carry and PostgreSQL cannot."""
    named = f"{event.id}{event.type}{event.source}{event.scope}"
    if (
        not named.isascii()
        or "\x00" in named
        or "\\u0000" in payload
        or "\\u0000" in headers
        or "NaN" in payload
        or "Infinity" in payload
        or (not payload.isascii() and REPLACEMENT in payload)  # what becomes of half a key
    ):  # it may be innocent
        # As it is, and as it is written: bytes, paths and queues become JSON only then.
        said = event.model_dump()
        problem = find_unstorable(said, "") or find_unstorable(load_or_show(payload), "")
        if problem is not None:
            raise problem


def _refuse_large(event: Event, payload: str, headers: str, limits: Limits) -> None:
    size = len(headers) + len(payload)
    if not payload.isascii():
        size += len(payload.encode()) - len(payload)
    if size > limits.size:
        raise refuse_large(event, size, limits.size)


def _in_full(found: re.Match[str]) -> str:
    """Write a float without exponent, with `.0`: `jsonb` would give it back as an integer."""
    if found[0].startswith('"'):
        return found[0]
    digits = format(Decimal(found[0]), "f")
    return digits if "." in digits else f"{digits}.0"


def _utc(timestamp: datetime) -> datetime:
    if timestamp.tzinfo is None:
        raise InvalidEvent("timestamp: it has no time zone: add one")
    try:
        found = timestamp.astimezone(UTC)
    except OverflowError as error:
        raise InvalidEvent(BEYOND) from error
    if found in INFINITE:
        raise InvalidEvent(BEYOND)
    return found


def aware(timestamp: datetime) -> datetime:
    """Return a time of the log; for PostgreSQL's infinities the driver gives one without a zone."""
    return timestamp if timestamp.tzinfo else timestamp.replace(tzinfo=UTC)


def decode(row: Row) -> Event:
    """Return the event of a row of `EVENT_COLUMNS`, in today's shape.

    Raises:
        NewerEvent: it was written by newer code than this.
        Unreadable: its type or shape is no longer known, or an upgrade of it fails.
    """
    event = _read(
        row["id"],
        row["type"],
        row["source"],
        row["scope"],
        aware(row["timestamp"]),
        row["payload"],
        row["headers"],
    )
    event.stamp(row["seq"], row["recorded_at"])
    return event


def reread(encoded: Encoded) -> Event:
    """Return the event that readers will get of these columns.

    Raises:
        NewerEvent: it was written by newer code than this.
        Unreadable: its type or shape is no longer known, or an upgrade of it fails.
    """
    return _read(*encoded)


def _read(
    id: str, type: str, source: str, scope: str, timestamp: datetime, payload: Any, headers: Any
) -> Event:
    try:
        fields: dict[str, Any] = {
            **load_json(payload),
            "id": id,
            "type": type,
            "source": source,
            "scope": scope,
            "timestamp": timestamp,
            "meta": load_json(headers),
        }
        return event_adapter.validator.validate_python(fields)  # past options that nobody sets
    except ValidationError as error:
        if error.errors(include_url=False, include_input=False)[0]["type"] == NEWER:
            raise NewerEvent(f"version: {id} has a newer one of {type} than is known") from error
        raise Unreadable(_sentence(error, type)) from error
    except Exception as error:  # a parser's limit, or whatever an upgrade of the owner's raises
        raise Unreadable(f"it cannot be read: {describe(error)}") from error


def _sentence(error: ValidationError, name: str) -> str:
    """Return what a validation found, field by field, without the values."""
    found = error.errors(include_url=False, include_input=False)[:SHOWN_ERRORS]
    if found[0]["type"] == "union_tag_invalid":
        return storable(f"type: {name!r} is no event type that this service knows")
    parts: list[str] = []
    for each in found:
        place = ".".join(str(part) for part in each["loc"] if part != name)
        parts.append(f"{place}: {each['msg']}" if place else each["msg"])
    return storable("; ".join(parts))


def refuse_invalid(event: Event, error: Exception) -> InvalidEvent:
    """Return the refusal of an event that has an attribute of a wrong type, or none."""
    fields = {name: getattr(event, name, None) for name in type(event).model_fields}
    if isinstance(meta := fields["meta"], EventMeta):
        fields["meta"] = vars(meta)  # an instance would pass as it is
    try:
        event_adapter.validator.validate_python(fields)
    except ValidationError as found:
        return InvalidEvent(_sentence(found, str(fields.get("type"))))
    except Exception as found:
        error = found
    return InvalidEvent(f"the event is not valid ({describe(error)}): validate it")


def decode_known(row: Row) -> Event | None:
    """Return the event of a row, or None, with a warning, if it cannot be read."""
    try:
        return decode(row)
    except (Unreadable, NewerEvent) as error:
        logfire.warn("Event {id} cannot be read: {error}", id=row["id"], error=str(error))
        return None


def decode_any(row: Row) -> Stored:
    """Return the event of a row, or the row itself with the reason why it cannot be read."""
    try:
        return decode(row)
    except (Unreadable, NewerEvent) as error:
        return UnreadableEvent(
            seq=row["seq"],
            id=row["id"],
            type=row["type"],
            source=row["source"],
            scope=row["scope"],
            timestamp=aware(row["timestamp"]),
            recorded_at=row["recorded_at"],
            payload=load_or_show(row["payload"]),
            meta=load_or_show(row["headers"]),
            unreadable=str(error),
        )


def load_json(value: Any) -> dict[str, Any]:
    """Read a `jsonb` column, which some connections decode and others leave as text."""
    return from_json(value) if isinstance(value, (str, bytes)) else value


def load_or_show(value: Any) -> Any:
    """Read a `jsonb` column, or return its text if it cannot be read, being nested too deeply."""
    try:
        return load_json(value)
    except ValueError:
        return value
