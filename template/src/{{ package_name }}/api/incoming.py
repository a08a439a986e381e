"""Validation of events that clients and operators publish: internal types are not allowed.

Clients (HTTP, WebSocket) may set a few fields of an event's meta, operators (command line) all of them.
"""

import re
from collections.abc import Callable
from typing import Annotated, Any, cast

from pydantic import (
    AfterValidator,
    BeforeValidator,
    GetJsonSchemaHandler,
    ValidationError,
    WrapValidator,
)
from pydantic_core import CoreSchema, PydanticCustomError

from ..core.events import INTERNAL_TYPES, Event, public_types
from .ids import id_error

CLIENT_META_FIELDS = frozenset({"correlation_id", "replayed_from", "traceparent"})
"""Fields of an event's meta that clients may set: the service copies them and does not act on them."""
TRACEPARENT = re.compile(r"([0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-)([0-9a-f]{2})")
SAMPLED = 1  # the flag of a recorded trace (W3C Trace Context)
MAX_ERRORS = 100  # of one event: formatting a hundred thousand takes a second


def allowed_meta(meta: Any) -> Any:
    """Return the allowed fields of a client's meta; a value that is not an object is left to validation.

    The event continues the client's trace, always as sampled: a client could hide itself otherwise.
    """
    if not isinstance(meta, dict):
        return meta
    sent = cast("dict[str, Any]", meta)
    taken = {name: sent[name] for name in CLIENT_META_FIELDS & sent.keys()}
    found = TRACEPARENT.fullmatch(str(taken.get("traceparent")))
    if found is not None:
        taken["traceparent"] = f"{found[1]}{int(found[2], 16) | SAMPLED:02x}"
    return taken


def with_allowed_meta(event: Any) -> Any:
    """Return a client's event with the allowed fields of its meta."""
    if not isinstance(event, dict):
        return event
    fields = cast("dict[str, Any]", event)
    return {**fields, "meta": allowed_meta(fields["meta"])} if "meta" in fields else fields


def limit_errors(value: Any, validate: Callable[[Any], Event]) -> Event:
    """Validate an event; replace more than `MAX_ERRORS` errors by their count.

    Raises:
        ValidationError: the event is not valid.
        PydanticCustomError: it has too many errors.
    """
    try:
        return validate(value)
    except ValidationError as error:
        if error.error_count() <= MAX_ERRORS:
            raise
        raise PydanticCustomError(
            "too_many_errors",
            "It has {count} errors; send an event",
            {"count": error.error_count()},
        ) from None


def refuse_internal(event: Event) -> Event:
    """Reject an event of an internal type.

    Raises:
        PydanticCustomError: only the service itself publishes this type.
    """
    if event.type in INTERNAL_TYPES:
        raise PydanticCustomError(
            "internal",
            "type: only the service itself publishes '{type}'; use one of {allowed}",
            {"type": event.type, "allowed": ", ".join(public_types())},
        )
    return event


def refuse_reserved(event: Event) -> Event:
    """Reject an event with a reserved id.

    Raises:
        PydanticCustomError: the id is reserved, or has no URL.
    """
    if refusal := id_error(event.id):
        raise PydanticCustomError("reserved", "{refusal}", {"refusal": refusal})
    return event


class HideInternalTypes:
    """Exclude the internal types from the API's documentation."""

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Return the schema of the union without them."""
        schema = handler(core_schema)
        known = schema["discriminator"]["mapping"]
        mapping = {name: known[name] for name in public_types()}
        schema["oneOf"] = [{"$ref": ref} for ref in mapping.values()]
        schema["discriminator"]["mapping"] = mapping
        return schema


# A named type: FastAPI splits an anonymous union, and documents it wrongly.
type OperatorEvent = Annotated[
    Event, AfterValidator(refuse_internal), AfterValidator(refuse_reserved), HideInternalTypes()
]
type IncomingEvent = Annotated[
    Event,
    WrapValidator(limit_errors),
    BeforeValidator(with_allowed_meta),
    AfterValidator(refuse_internal),
    AfterValidator(refuse_reserved),
    HideInternalTypes(),
]
