"""Builds the `operator.action` events that record what operators did, and who."""

from collections.abc import Sequence

from pydantic import JsonValue

from ...core.events import Event, OperatorActionEvent
from ...core.units import Seconds
from ..database import Row
from ..text import shorten
from .dead_letters import DeadLetterFilter

MAX_LISTED_IDS = 100  # of events in one record
MAX_KEY_BYTES = 200  # of a listed name of a field
MAX_NAME_BYTES = 190  # bytes of an operator's name, which is part of the record's source


def dead_letter_record(
    action: str, by: str, which: DeadLetterFilter, rows: Sequence[Row]
) -> OperatorActionEvent:
    """Return the record of a retry or purge of dead letters, whose events are `rows`."""
    return _record(action, by, [row["id"] for row in rows], subscriber=which.subscriber)


def publishing_record(by: str, events: Sequence[Event], new: int) -> OperatorActionEvent:
    """Return the record of events that an operator published, `new` of which were new."""
    return _record("publish", by, [event.id for event in events], new=new)


def pruning_record(by: str, older_than: Seconds) -> OperatorActionEvent:
    """Return the record of a request to prune the log."""
    return _record("prune", by, None, older_than=older_than)


def erasing_record(by: str, count: int, keys: Sequence[str]) -> OperatorActionEvent:
    """Return the record of an erasure: the number of events and the fields that selected them.

    It names neither the scope nor a value, since those may name a person.
    """
    record = _record("erase", by, None, count=count)
    if keys:
        record.details["where"] = [shorten(key, MAX_KEY_BYTES) for key in keys[:MAX_LISTED_IDS]]
    return record


def _record(
    action: str, by: str, ids: Sequence[str] | None, **details: str | float
) -> OperatorActionEvent:
    name = shorten(by, MAX_NAME_BYTES)
    content: dict[str, JsonValue] = {**details}
    if ids is not None:
        content |= {"count": len(ids), "events": list[JsonValue](ids[:MAX_LISTED_IDS])}
    return OperatorActionEvent(
        source=f"operator:{name}", action=action, client=name, details=content
    )
