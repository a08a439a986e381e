"""The keys of model requests and tool calls in the journal: digests of what was asked."""

import json
import re
from hashlib import sha256
from typing import Any, NamedTuple, cast

from pydantic import TypeAdapter
from pydantic_ai.messages import (
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelResponse,
    ToolCallPart,
)
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.settings import ModelSettings
from pydantic_core import PydanticSerializationError, to_jsonable_python

GENERATED_ID = "pyd_ai_"  # begins ids that PydanticAI makes up, new on each attempt
# Matches one as a field in JSON. A text cannot contain it: its quotes are escaped.
GENERATED_FIELD = re.compile(rb'"tool_call_id":"pyd_ai_[^"]*"')
MESSAGE_DETAILS = {
    "__all__": {
        "timestamp": True,
        "run_id": True,
        "conversation_id": True,
        "model_id": True,
        "usage": True,
        "parts": {"__all__": {"timestamp"}},
    }
}
"""The fields of messages that say when, where and at what price they were made: they differ on a retry, or ask nothing."""
DELIVERY_SETTINGS = ("timeout", "max_retries")
"""The settings that say how a request is made, and not what is asked."""
EMPTY = b"[]"  # no messages, as JSON
MAX_PLAIN_ID = 150  # characters of a tool call's id in a key; of a longer one, it has the digest

PARAMETERS = TypeAdapter(ModelRequestParameters)


def plain_id(call_id: str) -> str:
    """Return the id of a tool call as it may stand in a header: one that is long or not plain, as its digest."""
    plain = call_id.isascii() and call_id.isprintable() and " " not in call_id
    if plain and len(call_id) <= MAX_PLAIN_ID:
        return call_id
    return _sha256(call_id.encode(errors="surrogatepass"))[:32]


class RequestKey(NamedTuple):
    """The key of a request, and what it adds to the conversation."""

    digest: str
    """The digest of all that it asks, with the history."""
    asked: bytes
    """Its messages since the last response, as JSON without what differs on a retry."""


def request_key(
    model_id: str,
    messages: list[ModelMessage],
    settings: ModelSettings | None,
    parameters: ModelRequestParameters,
) -> RequestKey:
    """Return the digest of what a request asks, and its new messages, which are serialized for both at once."""
    options = {
        name: value for name, value in (settings or {}).items() if name not in DELIVERY_SETTINGS
    }
    asked = ["request", model_id, options, PARAMETERS.dump_python(parameters)]
    begin = _begin_of_new(messages)
    history, new = _as_json(messages[:begin]), _as_json(messages[begin:])
    return RequestKey(_digest(_joined(history, new), asked), new)


def _begin_of_new(messages: list[ModelMessage]) -> int:
    """Return the place after the last response."""
    begin = len(messages)
    while begin and not isinstance(messages[begin - 1], ModelResponse):
        begin -= 1
    return begin


def _joined(first: bytes, second: bytes) -> bytes:
    """Return two JSON arrays as one."""
    if EMPTY in (first, second):
        return second if first == EMPTY else first
    return first[:-1] + b"," + second[1:]


def call_digest(messages: list[ModelMessage], call: ToolCallPart) -> str:
    """Return the digest of a tool call: its history, id, name and arguments."""
    call_id = _stable(call.tool_call_id)
    asked = ["call", call_id, call.tool_name, call.args_as_json_str()]
    return _digest(_as_json(messages), asked)


def call_as_json(call: ToolCallPart, *, is_effect: bool) -> bytes:
    """Return a tool call as people read it: its name, id and arguments, and that it is an effect."""
    asked: dict[str, object] = {
        "name": call.tool_name,
        "id": call.tool_call_id,
        "args": call.args,
    }
    if is_effect:
        asked["effect"] = True
    return json.dumps(asked, default=str).encode()


def _stable(call_id: str) -> str:
    return "" if call_id.startswith(GENERATED_ID) else call_id


def _digest(messages: bytes, asked: list[Any]) -> str:
    """Return the digest of what is asked after these messages."""
    text = json.dumps(asked, sort_keys=True, default=_jsonable)
    history = GENERATED_FIELD.sub(b'"tool_call_id":""', messages)
    return _sha256(text.encode() + b"\n" + history)


def _as_json(messages: list[ModelMessage]) -> bytes:
    """Return messages as JSON, without what differs on a retry, but with ids that PydanticAI made up.

    Each unit has the whole history in its digest, so PydanticAI's serializer writes it: half the time of `json.dumps`.
    """
    adapter = ModelMessagesTypeAdapter
    try:
        return adapter.dump_json(messages, exclude=MESSAGE_DETAILS)
    except PydanticSerializationError:  # a text has half of a character, which UTF-8 has not
        plain = adapter.dump_python(messages, mode="json", exclude=MESSAGE_DETAILS)
        return json.dumps(plain, separators=(",", ":")).encode()


def _jsonable(value: object) -> object:
    """Return other values than JSON in a form that is the same in each process: a set has no order of its own."""
    if isinstance(value, set | frozenset):
        return sorted(cast("set[object]", value), key=str)
    return to_jsonable_python(value, fallback=lambda other: type(other).__qualname__)


def _sha256(content: bytes) -> str:
    return sha256(content).hexdigest()
