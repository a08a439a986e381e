"""Builds the `operator.action` events that record what operators did, and who."""

from collections.abc import Sequence

from pydantic import JsonValue

from ...core.events import Event, OperatorActionEvent
from ...core.units import Seconds
from ..database import Row
from ..text import shorten
from .dead_letters import DeadLetterSearch

MAX_LISTED_IDS = 100  # of events in one record
MAX_KEY_BYTES = 200  # of a listed name of a field
MAX_NAME_BYTES = 190  # bytes of an operator's name, which is part of the record's source


def operator_source(name: str) -> str:
    """Return the source of the records of an operator."""
    return f"operator:{shorten(name, MAX_NAME_BYTES)}"


def dead_letter_record(
    action: str, by: str, which: DeadLetterSearch, rows: Sequence[Row]
) -> OperatorActionEvent:
    """Return the record of a retry or purge of dead letters, whose events are `rows`."""
    record = _record(action, by, [row["id"] for row in rows], subscriber=which.subscriber)
    if selected := _as_details(which):
        record.details["filter"] = selected
    return record


def _as_details(which: DeadLetterSearch) -> dict[str, JsonValue]:
    """Return the conditions that selected dead letters, besides the id and what the operator may see.

    An erasure overwrites a scope in records, but keeps them. So errors, which may name a person, are only named as
    conditions.
    """
    found: dict[str, JsonValue] = {}
    if which.types is not None:
        found["types"] = [shorten(name, MAX_KEY_BYTES) for name in which.types[:MAX_LISTED_IDS]]
    for name, at in (("since", which.since), ("until", which.until)):
        if at is not None:
            found[name] = at.isoformat()
    if which.scope is not None:
        found["scope"] = which.scope
    texts = {"error": which.error, "group": which.group}
    if named := [name for name, text in texts.items() if text is not None]:
        found["where"] = list[JsonValue](named)
    return found


def pausing_record(action: str, by: str, subscriber: str) -> OperatorActionEvent:
    """Return the record of a subscriber's pause, or of the end of it."""
    return _record(action, by, None, subscriber=subscriber)


def ticking_record(by: str, timer_name: str, event_id: str) -> OperatorActionEvent:
    """Return the record of a tick that an operator published."""
    return _record("tick", by, [event_id], timer=timer_name)


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
    content: dict[str, JsonValue] = {**details}
    if ids is not None:
        content |= {"count": len(ids), "events": list[JsonValue](ids[:MAX_LISTED_IDS])}
    return OperatorActionEvent(
        source=operator_source(by),
        action=action,
        client=shorten(by, MAX_NAME_BYTES),
        details=content,
    )
