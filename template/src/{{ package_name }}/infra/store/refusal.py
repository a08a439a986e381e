"""Why an event cannot be stored: the field, and the remedy. Called only when something is wrong."""

import math
import re
from typing import Any, cast

from pydantic_core import to_json

from ...core.events import Event
from ..text import UNSTORABLE, describe

# Strings first, so that no bracket and no exponent within one counts.
STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"'
NO_BRACKET = re.compile(rf'{STRING}|[^\[\]{{}}"]+', re.DOTALL)


class InvalidEvent(ValueError):
    """The event cannot be stored as it is; the message names the field and the remedy."""


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


def find_unstorable(value: Any, field: str) -> InvalidEvent | None:
    """Return the refusal of the first value that PostgreSQL's JSON cannot hold, if there is one.

    Raises:
        RecursionError: the value is nested too deeply to be looked through.
    """
    if isinstance(value, str):
        return _find_in_text(value, field)
    if isinstance(value, float) and not math.isfinite(value):
        return InvalidEvent(f"{field}: it is {value}, which JSON does not have: send null or text")
    if isinstance(value, dict):
        for key, item in cast("dict[Any, Any]", value).items():
            problem = find_unstorable(key, f"a key of {field or 'the event'}")
            problem = problem or find_unstorable(item, f"{field}.{key}" if field else str(key))
            if problem:
                return problem
    if isinstance(value, list | tuple | set | frozenset):
        for index, item in enumerate(cast("list[Any]", value)):
            if problem := find_unstorable(item, f"{field}[{index}]"):
                return problem
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
    return to_json(getattr(event, field, None), fallback=str).decode()
