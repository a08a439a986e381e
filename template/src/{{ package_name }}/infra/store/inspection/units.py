"""Decodes the units of a journal: what was asked and answered, and at what price.

Entries are JSON in PydanticAI's form. They are read as plain JSON, so that an entry of another version is shown as far
as it is understood.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, NamedTuple, cast

from ...database import Row
from ..times import with_timezone


class Part(NamedTuple):
    """A part of what was asked or answered."""

    kind: str
    """PydanticAI's kind, such as `user-prompt`, `text` or `tool-call`; or `instructions`, or `result` of a tool."""
    name: str | None
    """The tool's name, if it is about one."""
    text: str
    """The content; JSON if it is not a text."""
    call_id: str | None = None
    """The id of the tool call, if it is about one."""


class Unit(NamedTuple):
    """A finished model request or tool call."""

    kind: Literal["request", "tool"]
    name: str
    """The model's or the tool's name; empty if unknown."""
    asked: list[Part]
    """The messages since the response before it, or the tool's arguments; empty if they were not recorded."""
    answer: list[Part]
    input_tokens: int | None
    output_tokens: int | None
    cost: Decimal | None
    """US dollars; None if its price is not known."""
    recorded_at: datetime
    size: int
    """The bytes of what was asked and answered."""
    complete: bool = True
    """Whether it was read; if not, the units before it took the bytes that one page may have."""
    is_effect: bool = False
    """Whether it is a call that came to a function marked `@effect`."""


type Json = Mapping[str, Any]


def decode_unit(row: Row) -> Unit:
    """Return the unit of a row of the journal."""
    at, size = with_timezone(row["recorded_at"]), row["size"]
    if not row["fits"]:
        return Unit("request", "", [], [], None, None, None, at, size, complete=False)
    entry, asked = _load(row["entry"]), _load(row["asked"])
    if isinstance(entry, dict):
        return _request(cast("Json", entry), asked, at, size)
    name, arguments = _call(asked)
    is_effect = bool(as_object(asked).get("effect"))
    answer = [Part("result", name or None, _text(each)) for each in _list(entry)[1:]]
    unknown = (None, None, None)
    return Unit("tool", name, arguments, answer, *unknown, at, size, is_effect=is_effect)


def as_object(value: object) -> Json:
    """Return a JSON object; an empty one for any other value."""
    return cast("Json", value) if isinstance(value, Mapping) else {}


def _request(entry: Json, asked: Any, at: datetime, size: int) -> Unit:
    usage = as_object(entry.get("usage"))
    answer = [_part(as_object(part)) for part in _list(entry.get("parts"))]
    known = (_number(usage.get("input_tokens")), _number(usage.get("output_tokens")))
    name = str(entry.get("model_name") or "")
    return Unit("request", name, _asked(asked), answer, *known, _cost(entry), at, size)


def _asked(messages: Any) -> list[Part]:
    """Return the parts of the messages that a request added, its instructions first."""
    parts: list[Part] = []
    for message in map(as_object, _list(messages)):
        if instructions := message.get("instructions"):
            parts.append(Part("instructions", None, _text(instructions)))
        parts += [_part(as_object(part)) for part in _list(message.get("parts"))]
    return parts


def _call(asked: Any) -> tuple[str, list[Part]]:
    call = as_object(asked)
    if not call:
        return "", []
    name, call_id = str(call.get("name") or ""), call.get("id")
    return name, [Part("tool-call", name, _text(call.get("args")), call_id and str(call_id))]


def _part(part: Json) -> Part:
    content = part.get("content", part.get("args"))
    name, call_id = part.get("tool_name"), part.get("tool_call_id")
    kind = str(part.get("part_kind") or "unknown")
    text = _text(content if content is not None else "")
    return Part(kind, name and str(name), text, call_id and str(call_id))


def _cost(entry: Json) -> Decimal | None:
    """Return the price of a response; None if its model or its usage is not known to the list of prices."""
    # Imported here, since only a page of a decision needs it.
    from pydantic_ai.durable_exec import JSON_CODEC
    from pydantic_ai.messages import ModelResponse

    try:
        return cast("ModelResponse", JSON_CODEC.load(ModelResponse, entry)).cost().total_price
    except (AssertionError, LookupError, ValueError):  # what an unknown model or usage raises
        return None


def _load(content: bytes | None) -> Any:
    """Return the JSON; None if there is none, or it cannot be read, as of another version."""
    try:
        return None if content is None else json.loads(content)
    except (ValueError, RecursionError):
        return None


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _list(value: object) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []


def _number(value: object) -> int | None:
    return value if isinstance(value, int) else None
