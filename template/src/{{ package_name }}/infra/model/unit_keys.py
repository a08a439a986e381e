"""The keys of model requests and tool calls in the journal: digests of what was asked."""

import json
from hashlib import sha256
from typing import Any, cast

from pydantic import TypeAdapter
from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter, ToolCallPart
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.settings import ModelSettings
from pydantic_core import to_jsonable_python

GENERATED_ID = "pyd_ai_"  # begins ids that PydanticAI makes up, new on each attempt
MESSAGE_DETAILS = ("timestamp", "run_id", "conversation_id", "model_id")
"""The fields of a message that say when and where it was made, and differ on a retry."""
PART_DETAILS = ("timestamp",)
DELIVERY_SETTINGS = ("timeout", "max_retries")
"""The settings that say how a request is made, and not what is asked."""
MAX_PLAIN_ID = 150  # characters of a tool call's id in a key; of a longer one, it has the digest

PARAMETERS = TypeAdapter(ModelRequestParameters)


def plain_id(call_id: str) -> str:
    """Return the id of a tool call as it may stand in a header: one that is long or not plain, as its digest."""
    plain = call_id.isascii() and call_id.isprintable() and " " not in call_id
    return call_id if plain and len(call_id) <= MAX_PLAIN_ID else _sha256(call_id)[:32]


def request_key(
    model_id: str,
    messages: list[ModelMessage],
    settings: ModelSettings | None,
    parameters: ModelRequestParameters,
) -> str:
    """Return the digest of what a request asks."""
    asked = {
        name: value for name, value in (settings or {}).items() if name not in DELIVERY_SETTINGS
    }
    return _digest(
        ["request", model_id, _plain(messages), asked, PARAMETERS.dump_python(parameters)]
    )


def call_digest(messages: list[ModelMessage], call: ToolCallPart) -> str:
    """Return the digest of a tool call: its history, id, name and arguments."""
    call_id = _stable(call.tool_call_id)
    return _digest(["call", _plain(messages), call_id, call.tool_name, call.args_as_json_str()])


def _plain(messages: list[ModelMessage]) -> list[dict[str, Any]]:
    """Return messages as JSON, without what differs on a retry."""
    plain = cast(
        "list[dict[str, Any]]", ModelMessagesTypeAdapter.dump_python(messages, mode="json")
    )
    for message in plain:
        for name in MESSAGE_DETAILS:
            message.pop(name, None)
        for part in message["parts"]:
            for name in PART_DETAILS:
                part.pop(name, None)
            if "tool_call_id" in part:
                part["tool_call_id"] = _stable(part["tool_call_id"])
    return plain


def _stable(call_id: str) -> str:
    return "" if call_id.startswith(GENERATED_ID) else call_id


def _digest(asked: list[Any]) -> str:
    return _sha256(json.dumps(asked, sort_keys=True, default=_jsonable))


def _jsonable(value: object) -> object:
    """Return other values than JSON in a form that is the same in each process: a set has no order of its own."""
    if isinstance(value, set | frozenset):
        return sorted(cast("set[object]", value), key=str)
    return to_jsonable_python(value, fallback=lambda other: type(other).__qualname__)


def _sha256(text: str) -> str:
    return sha256(text.encode(errors="surrogatepass")).hexdigest()
