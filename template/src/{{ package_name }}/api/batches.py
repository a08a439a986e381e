"""Validate a batch of events without blocking the event loop."""

import asyncio
from collections.abc import Sequence
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, TypeAdapter, ValidationError
from pydantic_core import CoreSchema, core_schema

from ..core.events import Event
from ..core.units import Seconds
from .errors import MAX_ERRORS_SHOWN, BatchValidationError
from .incoming import IncomingEvent

YIELD_INTERVAL: Seconds = 0.005  # of validation, after which other requests run

ADAPTER = TypeAdapter[Event](IncomingEvent)


class Unvalidated:
    """Accept an event of a batch unvalidated, and document it with the schema of an event.

    The route checks the size of the batch before it validates the events.
    """

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Return a schema that accepts any value."""
        return core_schema.any_schema()

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Return the schema of an event."""
        return handler(ADAPTER.core_schema)


async def read_batch(batch: Sequence[Any]) -> list[Event]:
    """Validate the events of a batch, and let other requests run every `YIELD_INTERVAL`.

    Raises:
        BatchValidationError: at least one event is not valid.
    """
    loop = asyncio.get_running_loop()
    events: list[Event] = []
    errors: list[Any] = []
    count, until = 0, loop.time() + YIELD_INTERVAL
    for index, sent in enumerate(batch):
        try:
            events.append(ADAPTER.validate_python(sent, from_attributes=True))
        except ValidationError as error:
            count += error.error_count()
            if len(errors) < MAX_ERRORS_SHOWN:
                found = error.errors(include_url=False, include_input=False)
                errors += [{**each, "loc": ("body", index, *each["loc"])} for each in found]
        if loop.time() > until:
            await asyncio.sleep(0)
            until = loop.time() + YIELD_INTERVAL
    if errors:
        raise BatchValidationError(
            errors[:MAX_ERRORS_SHOWN], count - len(errors[:MAX_ERRORS_SHOWN])
        )
    return events
