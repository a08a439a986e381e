"""The trust boundary of an agent run: clean the model's responses, and limit its tool calls.

A model may repeat its input, so its output is as untrusted as the events. `deps.run` adds this capability
to every agent.
"""

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import logfire
from pydantic_ai import RunContext
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.messages import ModelResponse, ModelResponsePart, TextPart, ToolCallPart
from pydantic_ai.models import ModelRequestContext
from pydantic_ai.tools import ToolDefinition

from ...core.prompt import RULE, contain
from ..text import UNSTORABLE, storable, storable_json

# Matches an escaped NUL or lone surrogate in JSON, unless the backslash itself is escaped.
ESCAPED = re.compile(r"(?<!\\)(?:\\\\)*\\u(?:0000|[dD][89a-fA-F])")

type Execute = Callable[[dict[str, Any]], Awaitable[Any]]


class Boundary(AbstractCapability[Any]):
    """A capability between one run, its model and its tools."""

    def __init__(self, max_bytes: int, max_calls: int) -> None:
        super().__init__()
        self._max_bytes = max_bytes
        self._max_calls = max_calls
        self._calls = 0

    def get_instructions(self) -> str:
        """Return the instruction that separates data from instructions."""
        return RULE

    async def after_model_request(
        self,
        ctx: RunContext[Any],
        *,
        request_context: ModelRequestContext,
        response: ModelResponse,
    ) -> ModelResponse:
        """Remove NULs and lone surrogates from the text and arguments of a response."""
        return self.cleaned(response)

    def cleaned(self, response: ModelResponse) -> ModelResponse:
        """Return a response without NULs and lone surrogates."""
        return replace(response, parts=[_clean(part) for part in response.parts])

    async def wrap_tool_execute(
        self,
        ctx: RunContext[Any],
        *,
        call: ToolCallPart,
        tool_def: ToolDefinition,
        args: dict[str, Any],
        handler: Execute,
    ) -> Any:
        """Run a tool and limit its result; refuse too large arguments, and too many calls."""
        self._calls += 1
        if refusal := self._refusal(call):
            logfire.warn("{tool} was not run: {reason}", tool=call.tool_name, reason=refusal)
            return f"Not done: {refusal}."
        return self.bounded(await handler(args))

    def bounded(self, result: Any) -> Any:
        """Return a tool's result; if it has invisible text or is too large, as contained text."""
        return _bounded(result, self._max_bytes)

    def _refusal(self, call: ToolCallPart) -> str | None:
        size = len(call.args_as_json_str().encode(errors="replace"))
        if size > self._max_bytes:
            return f"the arguments take {size} bytes, and at most {self._max_bytes} are allowed"
        if self._calls > self._max_calls:
            return f"this decision called tools {self._max_calls} times, and no more are allowed"
        return None


def _clean(part: ModelResponsePart) -> ModelResponsePart:
    if isinstance(part, TextPart):
        return replace(part, content=storable(part.content))
    if isinstance(part, ToolCallPart) and part.args:
        return replace(part, args=_clean_arguments(part.args))
    return part


def _clean_arguments(args: str | Mapping[str, Any]) -> str | dict[str, Any]:
    if not isinstance(args, str):
        return storable_json(args)
    if UNSTORABLE.search(args) is None and ESCAPED.search(args) is None:
        return args  # the usual case
    try:
        return json.dumps(storable_json(json.loads(args, strict=False)))
    except (
        ValueError,
        RecursionError,
    ):  # not JSON: PydanticAI's validation reports it to the model
        return storable(args)


def _bounded(result: Any, max_bytes: int) -> Any:
    """Return a tool's result; if it has invisible text or more than `max_bytes`, as contained text."""
    if isinstance(result, str):
        return contain(result, max_bytes)
    if not isinstance(result, dict | list):
        return result
    try:
        text = json.dumps(cast("object", result), ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):  # it has other values than JSON, such as images
        return cast("object", result)
    contained = contain(text, max_bytes)
    return cast("object", result) if contained == text else contained
