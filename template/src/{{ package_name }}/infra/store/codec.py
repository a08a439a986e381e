"""Encodes events as rows and decodes rows as events.

`encode` reads back what it wrote, so an event that could not be read again is never stored.
"""

import re
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple, cast

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
    find_merged,
    find_unstorable,
    nesting,
    refuse_large,
    refuse_nested,
    refuse_unwritable,
)
from .times import calendar_time, in_utc, with_timezone
from .weights import weigh_event

COLUMNS = {"id", "type", "source", "scope", "timestamp", "meta"}  # the rest is the payload

EVENT_COLUMNS = (
    f"e.seq, e.id, e.type, e.source, e.scope, {calendar_time('e.timestamp')} AS timestamp,"
    f" e.payload, e.headers, {calendar_time('e.recorded_at')} AS recorded_at"
)
ERASED = "erased"
"""The key of the headers that marks an erased event; its value is the time of the erasure."""
MIN_SIZE_LIMIT = 1_000_000  # bytes, even if API_MAX_BODY_BYTES is smaller
MAX_SHOWN_ERRORS = 5  # validation errors quoted of one event
# The exponent mark of a large float: `e+`, or `e` in older versions of pydantic-core.
EXPONENT = to_json(1e300).removeprefix(b"1").removesuffix(b"300").decode()
LARGE_FLOAT = re.compile(rf"{STRING}|-?\d+(?:\.\d+)?[eE]\+?\d+", re.DOTALL)


class Unreadable(Exception):
    """This code cannot read the row of an event; the message is the reason in one sentence."""


class Erased(Unreadable):
    """An operator erased the event: decisions treat it as absent."""


class NewerEvent(Exception):
    """The event has a newer version of its type than this code supports."""


class _Row(BaseModel):
    """The columns of a stored event that is not read as one."""

    seq: int
    id: str
    type: str
    source: str
    scope: str
    timestamp: AwareDatetime
    recorded_at: AwareDatetime
    payload: Any
    """The stored JSON, or its text if it cannot be parsed; of an erased event `covers` at most."""
    meta: Any


class UnreadableEvent(_Row):
    """A stored event that this code cannot read, with the reason."""

    unreadable: str
    """The reason."""


class ErasedEvent(_Row):
    """A stored event that an operator erased: what happened when, and why, but no longer what it said."""

    erased: str
    """When it was erased, as ISO 8601."""


type Stored = Event | UnreadableEvent | ErasedEvent
"""A row of the log as readers get it."""


class Limits(NamedTuple):
    """The limits of a published event."""

    depth: int
    """The longest chain of causes, in events (EVENT_MAX_DEPTH)."""
    nesting: int
    """The most levels of arrays and objects in an event's JSON, its own object included (EVENT_MAX_NESTING)."""
    size: int
    """The most bytes of an event's payload and headers (EVENT_MAX_BYTES)."""

    @classmethod
    def of(cls, settings: Settings) -> "Limits":
        """Return the limits that the settings name."""
        size = settings.event_max_bytes or max(settings.api_max_body_bytes, MIN_SIZE_LIMIT)
        return cls(settings.event_max_depth, settings.event_max_nesting, size)

    def for_covering(self, ids: list[str]) -> "Limits":
        """Return the limits for an event with these ids in `covers`, which do not count toward its size."""
        return self._replace(size=self.size + sum(len(each.encode()) + 3 for each in ids))


class Encoded(NamedTuple):
    """An event's columns, ready for the database."""

    id: str
    type: str
    source: str
    scope: str
    timestamp: Any  # a datetime; a narrower type does not fit the driver's stubs
    payload: str
    headers: str


def encode(event: Event, limits: Limits, traceparent: str | None = None) -> Encoded:
    """Return the event's columns, with `traceparent` in its headers unless it has one.

    Raises:
        InvalidEvent: a value cannot be stored, or the columns cannot be read back.
    """
    try:
        payload = to_json(event, exclude=COLUMNS).decode()
        headers = to_json(event.meta, exclude_none=True).decode()
    except PydanticSerializationError as error:
        raise refuse_unwritable(event, error, limits.nesting) from error
    if traceparent is not None and event.meta.traceparent is None:
        # Copying the model to set this field takes a tenth of the time of a batch.
        headers = f'{headers[:-1]},"traceparent":{to_json(traceparent).decode()}' + "}"
    _refuse_deep(event, payload, limits)
    _refuse_characters(event, payload, headers)
    if EXPONENT in payload:
        payload = LARGE_FLOAT.sub(_without_exponent, payload)
    _refuse_large(event, payload, headers, limits)
    encoded = Encoded(
        event.id, event.type, event.source, event.scope, in_utc(event.timestamp), payload, headers
    )
    try:
        read = read_back(encoded)
    except (Unreadable, NewerEvent) as error:
        raise InvalidEvent(str(error)) from error
    if (read.id, read.source, read.scope) != (event.id, event.source, event.scope):
        raise InvalidEvent("id, source, scope: one of them is not text: correct it")
    _refuse_merged(event, read)
    return encoded


def _refuse_merged(event: Event, read: Event) -> None:
    """Refuse keys that JSON merges; fields that are read back equal need no search."""
    kept = vars(read)
    for name, value in vars(event).items():
        if name not in COLUMNS and name in kept and kept[name] != value:
            problem = find_merged(event.model_dump(include={name})[name], name)
            if problem is not None:
                raise problem


def _refuse_deep(event: Event, payload: str, limits: Limits) -> None:
    if payload.count("{") + payload.count("[") > limits.nesting:  # also counts brackets within text
        levels = nesting(payload)
        if levels > limits.nesting:
            raise refuse_nested(event, levels, limits.nesting)


def _refuse_characters(event: Event, payload: str, headers: str) -> None:
    """Refuse characters and numbers that PostgreSQL cannot store."""
    named = f"{event.id}{event.type}{event.source}{event.scope}"
    if (
        not named.isascii()
        or "\x00" in named
        or "\\u0000" in payload
        or "\\u0000" in headers
        or "NaN" in payload
        or "Infinity" in payload
        or (
            not payload.isascii() and REPLACEMENT in payload
        )  # stands for a lone surrogate in a key
    ):  # possibly a false alarm
        # Searches the values and the written JSON, since bytes and paths become text only there.
        values = event.model_dump()
        problem = find_unstorable(values, "") or find_unstorable(load_json_or_text(payload), "")
        if problem is not None:
            raise problem


def _refuse_large(event: Event, payload: str, headers: str, limits: Limits) -> None:
    size = len(headers) + len(payload)
    if not payload.isascii():
        size += len(payload.encode()) - len(payload)
    if size > limits.size:
        raise refuse_large(event, size, limits.size)


def _without_exponent(found: re.Match[str]) -> str:
    """Write a float without an exponent and with `.0`, since `jsonb` would return it as an integer."""
    if found[0].startswith('"'):
        return found[0]
    digits = format(Decimal(found[0]), "f")
    return digits if "." in digits else f"{digits}.0"


def decode(row: Row) -> Event:
    """Return the event of a row of `EVENT_COLUMNS`, upgraded to the current version of its type.

    Raises:
        NewerEvent: it has a newer version than this code supports.
        Unreadable: its type or fields are no longer valid, or its upgrade fails.
    """
    _require_times(row)
    event = _read(
        row["id"],
        row["type"],
        row["source"],
        row["scope"],
        with_timezone(row["timestamp"]),
        row["payload"],
        row["headers"],
    )
    if event.scope != row["scope"]:  # derived from an empty one, but the delivery has the empty one
        raise Unreadable("scope: it is empty")
    weight = weigh_event(row["payload"], row["headers"])
    event.stamp(row["seq"], with_timezone(row["recorded_at"]), weight)
    return event


def _require_times(row: Row) -> None:
    for name in ("timestamp", "recorded_at"):
        if row[name] is None:
            raise Unreadable(f"{name}: it is before year 1 or after 9999, and shown as year 1")


def read_back(encoded: Encoded) -> Event:
    """Return the event that readers will get from these columns.

    Raises:
        NewerEvent: it has a newer version than this code supports.
        Unreadable: its type or fields are not valid, or its upgrade fails.
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
            "meta": _read_meta(headers),
        }
        # Faster than the adapter's own method.
        return event_adapter.validator.validate_python(fields)
    except Erased:
        raise
    except ValidationError as error:
        if error.errors(include_url=False, include_input=False)[0]["type"] == NEWER:
            raise NewerEvent(f"version: {id} has a newer one of {type} than is known") from error
        raise Unreadable(_sentence(error, type)) from error
    except Exception as error:  # a parser's limit, or an error of a function in UPGRADES
        raise Unreadable(f"it cannot be read: {describe(error)}") from error


def _read_meta(headers: Any) -> dict[str, Any]:
    """Parse the headers.

    Raises:
        Erased: they mark an erased event.
    """
    meta = load_json(headers)
    if isinstance(cast("object", meta), dict) and ERASED in meta:
        raise Erased(f"it was erased at {meta[ERASED]}")
    return meta


def _sentence(error: ValidationError, name: str) -> str:
    """Return a validation's findings by field, without the values."""
    found = error.errors(include_url=False, include_input=False)[:MAX_SHOWN_ERRORS]
    if found[0]["type"] == "union_tag_invalid":
        return storable(f"type: {name!r} is not an event type of this service")
    parts: list[str] = []
    for each in found:
        place = ".".join(str(part) for part in each["loc"] if part != name)
        parts.append(f"{place}: {each['msg']}" if place else each["msg"])
    return storable("; ".join(parts))


def refuse_invalid(event: Event, error: Exception) -> InvalidEvent:
    """Return the refusal of an event with an attribute that is missing or of a wrong type."""
    fields = {name: getattr(event, name, None) for name in type(event).model_fields}
    if isinstance(meta := fields["meta"], EventMeta):
        fields["meta"] = vars(meta)  # an instance would not be validated
    try:
        event_adapter.validator.validate_python(fields)
    except ValidationError as found:
        return InvalidEvent(_sentence(found, str(fields.get("type"))))
    except Exception as found:
        error = found
    return InvalidEvent(f"the event is not valid ({describe(error)}): validate it")


def decode_known(row: Row) -> Event | None:
    """Return the event of a row; if it cannot be read, log a warning and return None."""
    try:
        return decode(row)
    except Erased:
        return None
    except (Unreadable, NewerEvent) as error:
        logfire.warn("Event {id} cannot be read: {error}", id=row["id"], error=str(error))
        return None


def decode_any(row: Row) -> Stored:
    """Return the event of a row, or an `ErasedEvent`, or an `UnreadableEvent` with the reason."""
    try:
        return decode(row)
    except Erased:
        stored = _as_stored(row)
        meta = {**stored["meta"]}
        erased = str(meta.pop(ERASED))
        return ErasedEvent.model_validate({**stored, "meta": meta, "erased": erased})
    except (Unreadable, NewerEvent) as error:
        return UnreadableEvent(**_as_stored(row), unreadable=str(error))


def _as_stored(row: Row) -> dict[str, Any]:
    """Return the columns of a row, for an event that is shown as it is stored."""
    return {
        **{name: row[name] for name in ("seq", "id", "type", "source", "scope")},
        "timestamp": with_timezone(row["timestamp"]),
        "recorded_at": with_timezone(row["recorded_at"]),
        "payload": load_json_or_text(row["payload"]),
        "meta": load_json_or_text(row["headers"]),
    }


def load_json(value: Any) -> dict[str, Any]:
    """Parse a `jsonb` column, unless the connection did so already."""
    return from_json(value) if isinstance(value, (str, bytes)) else value


def load_json_or_text(value: Any) -> Any:
    """Parse a `jsonb` column, or return its text if it is nested too deeply to be parsed."""
    try:
        return load_json(value)
    except ValueError:
        return value
