"""The events that clients may publish: all but those that only the service itself does."""

from typing import Annotated, Any

from pydantic import AfterValidator, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError

from ..core.events import INTERNAL_TYPES, Event, public_types
from .ids import refusal_of


def refuse_internal(event: Event) -> Event:
    """Refuse what only the service itself publishes.

    Raises:
        PydanticCustomError: the event is of such a type.
    """
    if event.type in INTERNAL_TYPES:
        raise PydanticCustomError(
            "internal",
            "type: only the service itself publishes '{type}'; use one of {allowed}",
            {"type": event.type, "allowed": ", ".join(public_types())},
        )
    return event


def refuse_reserved(event: Event) -> Event:
    """Refuse an id under which the event could not be asked for.

    Raises:
        PydanticCustomError: the event has such an id.
    """
    if refusal := refusal_of(event.id):
        raise PydanticCustomError("reserved", "{refusal}", {"refusal": refusal})
    return event


class LeftOut:
    """Leaves the internal types out of the API's documentation."""

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


# A named type: FastAPI would take an anonymous union apart, and document it wrongly.
type IncomingEvent = Annotated[
    Event, AfterValidator(refuse_internal), AfterValidator(refuse_reserved), LeftOut()
]
