"""Builds the errors of events that cannot be stored, each with the field and the remedy."""

import math
import re
from collections.abc import Iterator
from typing import cast

from pydantic_core import PydanticSerializationError, from_json, to_json

from ...core.events import Event
from ..text import UNSTORABLE, describe

# Matches strings first, so that brackets and exponents within them do not count.
STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"'
MAX_SEARCH_DEPTH = 300  # levels; deeper than about 250, a value cannot be written as JSON
NON_BRACKETS = re.compile(STRING + r'|[^\[\]{}"]+', re.DOTALL)


class InvalidEvent(ValueError):
    """The event cannot be stored. The message names the field and the remedy."""

    index: int | None = None
    """The event's index in its batch, from 0."""


def nesting(json: str) -> int:
    """Return the levels of arrays and objects of a JSON text, without recursion."""
    level = deepest = 0
    for bracket in NON_BRACKETS.sub("", json):
        if bracket in "[{":
            level += 1
            deepest = max(deepest, level)
        else:
            level -= 1
    return deepest


def refuse_unwritable(event: Event, error: Exception, allowed: int) -> InvalidEvent:
    """Return the refusal of an event that cannot be serialized as JSON."""
    for name in type(event).model_fields:
        try:
            to_json(getattr(event, name, None))
        except Exception as found:
            problem = find_unstorable(getattr(event, name), name)
            return problem or InvalidEvent(
                f"{name}: it cannot be written as JSON ({describe(found)}): send JSON values, at"
                f" most {allowed} levels deep"
            )
    return InvalidEvent(f"the event cannot be written as JSON ({describe(error)}): correct it")


def refuse_deep(event: Event, allowed: int) -> InvalidEvent:
    """Return the refusal of an event whose chain of causes is too long."""
    return InvalidEvent(
        f"meta.depth: {event.type} has {event.meta.depth} events behind it and EVENT_MAX_DEPTH is"
        f" {allowed}, the answer to it included: does the agent react to its own actions?"
    )


def refuse_nested(event: Event, levels: int, allowed: int) -> InvalidEvent:
    """Return the refusal of an event whose JSON has too many levels."""
    name = max(type(event).model_fields, key=lambda field: nesting(_json(event, field)))
    return InvalidEvent(
        f"{name}: the event's JSON is nested {levels} levels deep and EVENT_MAX_NESTING is"
        f" {allowed}: flatten it, or send the inner part as text"
    )


def refuse_large(event: Event, size: int, allowed: int) -> InvalidEvent:
    """Return the refusal of an event that takes too many bytes."""
    name = max(type(event).model_fields, key=lambda field: len(_json(event, field)))
    return InvalidEvent(
        f"{name}: the event takes {size} bytes and at most {allowed} are stored (EVENT_MAX_BYTES):"
        " send less, or a link to it"
    )


def find_unstorable(value: object, field: str) -> InvalidEvent | None:
    """Return the refusal of the first value that `jsonb` cannot store, or None.

    It visits each container once and stops at `MAX_SEARCH_DEPTH`, so cycles end.
    """
    waiting: list[tuple[object, str, int]] = [(value, field, 0)]
    seen: set[int] = set()
    while waiting:
        value, field, level = waiting.pop()
        if problem := _find_in_value(value, field):
            return problem
        if level < MAX_SEARCH_DEPTH and id(value) not in seen:
            seen.add(id(value))
            waiting.extend((part, name, level + 1) for part, name in _parts(value, field))
    return None


def find_merged(value: object, field: str) -> InvalidEvent | None:
    """Return the refusal of the first object with keys that JSON merges, such as 1 and "1", or None."""
    waiting: list[tuple[object, str, int]] = [(value, field, 0)]
    while waiting:
        part, field, level = waiting.pop()
        if _merges(part):
            return InvalidEvent(
                f"{field}: two of its keys become one in JSON: write all keys as text"
            )
        if level < MAX_SEARCH_DEPTH:
            waiting.extend((each, name, level + 1) for each, name in _parts(part, field))
    return None


def _merges(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    keys = cast("dict[object, object]", value)
    if all(isinstance(key, str) for key in keys):
        return False
    return len(from_json(to_json(dict.fromkeys(keys)))) < len(keys)


def _parts(value: object, field: str) -> Iterator[tuple[object, str]]:
    if isinstance(value, dict):
        for key, item in cast("dict[object, object]", value).items():
            yield item, f"{field}.{key}" if field else str(key)
        for key in cast("dict[object, object]", value):  # popped before the values
            yield key, f"a key of {field or 'the event'}"
    elif isinstance(value, list | tuple | set | frozenset):
        for index, item in enumerate(cast("list[object]", value)):
            yield item, f"{field}[{index}]"


def _find_in_value(value: object, field: str) -> InvalidEvent | None:
    if isinstance(value, str):
        return _find_in_text(value, field)
    if isinstance(value, float) and not math.isfinite(value):
        return InvalidEvent(f"{field}: it is {value}, which JSON does not have: send null or text")
    return None


def _find_in_text(text: str, field: str) -> InvalidEvent | None:
    found = UNSTORABLE.search(text)
    if found is None:
        return None
    if found[0] == "\x00":
        return InvalidEvent(
            f"{field}: it has a NUL character, which cannot be stored: leave it out"
        )
    return InvalidEvent(f"{field}: it has half a character (a lone surrogate): correct it")


def _json(event: Event, field: str) -> str:
    value = getattr(event, field, None)
    try:
        return to_json(value, fallback=str).decode()
    except PydanticSerializationError:  # a lone surrogate in a key
        return str(value)  # Python's text has as many levels
