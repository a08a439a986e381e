"""Why an event cannot be stored: the field, and the remedy. Called only when something is wrong."""

import math
import re
from collections.abc import Iterator
from typing import cast

from pydantic_core import PydanticSerializationError, to_json

from ...core.events import Event
from ..text import UNSTORABLE, describe

# Strings first, so that no bracket and no exponent within one counts.
STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"'
DEEPEST = 300  # levels: beyond about 250 nothing can be written as JSON
NO_BRACKET = re.compile(STRING + r'|[^\[\]{}"]+', re.DOTALL)


class InvalidEvent(ValueError):
    """The event cannot be stored as it is; the message names the field and the remedy."""

    index: int | None = None
    """Which of many events it is, counted from 0."""


def nesting(json: str) -> int:
    """Return how many levels of arrays and objects a JSON text has. Works at any depth."""
    level = deepest = 0
    for bracket in NO_BRACKET.sub("", json):
        if bracket in "[{":
            level += 1
            deepest = max(deepest, level)
        else:
            level -= 1
    return deepest


def refuse_unwritable(event: Event, error: Exception, allowed: int) -> InvalidEvent:
    """Return the refusal of an event that cannot be written as JSON at all."""
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
    """Return the refusal of the first value that PostgreSQL's JSON cannot hold, if there is one.

    Looks at each container once and no deeper than anything is stored, so circles have an end.
    """
    waiting: list[tuple[object, str, int]] = [(value, field, 0)]
    seen: set[int] = set()
    while waiting:
        value, field, level = waiting.pop()
        if problem := _find_in_value(value, field):
            return problem
        if level < DEEPEST and id(value) not in seen:
            seen.add(id(value))
            waiting.extend((part, name, level + 1) for part, name in _parts(value, field))
    return None


def _parts(value: object, field: str) -> Iterator[tuple[object, str]]:
    if isinstance(value, dict):
        for key, item in cast("dict[object, object]", value).items():
            yield item, f"{field}.{key}" if field else str(key)
        for key in cast("dict[object, object]", value):  # looked at first: the last come first
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
    except PydanticSerializationError:  # half a character in a key
        return str(value)  # Python's form has as many levels
