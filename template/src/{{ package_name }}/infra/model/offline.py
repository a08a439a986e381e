"""A deterministic stand-in for a model, without key or network.

It calls every tool once, then generates the requested output from its JSON schema. Texts repeat the
beginning of the prompt, so that the output is recognisable.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from pydantic_ai import RunContext
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, UserPromptPart
from pydantic_ai.models import ModelRequestParameters, StreamedResponse
from pydantic_ai.models.test import TestModel
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition

from ...core.prompt import OPEN

PROMPT_LENGTH = 200  # characters of the prompt that are repeated
MAX_DEPTH = 5  # levels of a recursive schema
HINT = "Set DEFAULT_MODEL to let a real model answer"
FORMATS = {
    "date-time": "2026-01-31T12:00:00Z",
    "date": "2026-01-31",
    "time": "12:00:00Z",
    "duration": "PT1M",
    "email": "somebody@example.com",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "ipv4": "127.0.0.1",
    "ipv6": "::1",
    "binary": "",
}

type Schema = dict[str, Any]


class OfflineModel(TestModel):
    """A deterministic model for development, demonstrations and tests."""

    def __init__(self) -> None:
        super().__init__(model_name="offline")
        self._prompt = ""

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Answer one request from its first prompt."""
        answering = OfflineModel()  # one per request: a model serves concurrent runs
        answering._prompt = _first_prompt(messages)
        return await super(OfflineModel, answering).request(
            messages, model_settings, model_request_parameters
        )

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        """Answer one request word by word."""
        answering = OfflineModel()
        answering._prompt = _first_prompt(messages)
        async with super(OfflineModel, answering).request_stream(
            messages, model_settings, model_request_parameters, run_context
        ) as stream:
            yield stream

    def gen_tool_args(self, tool_def: ToolDefinition) -> Any:  # TestModel's signature
        """Return arguments for a tool or an output, from its JSON schema."""
        schema = tool_def.parameters_json_schema
        return _Filler(self._prompt or "offline", schema.get("$defs", {})).fill(schema)


class _Filler:
    """Generates values that a JSON schema allows."""

    def __init__(self, text: str, definitions: dict[str, Schema]) -> None:
        self._text = text
        self._definitions = definitions

    def fill(self, schema: Schema, depth: int = 0) -> Any:
        """Return a simple value of a schema."""
        if "$ref" in schema:
            return self.fill(self._definitions[schema["$ref"].rpartition("/")[2]], depth + 1)
        for key in ("const", "default"):
            if key in schema:
                return schema[key]
        if choices := schema.get("enum") or schema.get("examples"):
            return choices[0]
        for key in ("anyOf", "oneOf", "allOf"):
            if key in schema:
                real = [one for one in schema[key] if one.get("type") != "null"]
                return self.fill(real[0], depth) if real and depth < MAX_DEPTH else None
        return self._fill_type(schema, depth)

    def _fill_type(self, schema: Schema, depth: int) -> Any:
        match schema.get("type"):
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, depth)
            case "string":
                return self._string(schema)
            case "integer" | "number":
                return _number(schema)
            case "boolean":
                return False
            case "null":
                return None
            case _:
                return self._text

    def _object(self, schema: Schema, depth: int) -> dict[str, Any]:
        required = set(schema.get("required", []))
        fields = {
            name: self.fill(part, depth + 1)
            for name, part in schema.get("properties", {}).items()
            if name in required or depth < MAX_DEPTH
        }
        others = schema.get("additionalProperties")
        if isinstance(others, dict) and not fields:
            fields["example"] = self.fill(others, depth + 1)  # pyright: ignore[reportUnknownArgumentType] - any JSON
        return fields

    def _array(self, schema: Schema, depth: int) -> list[Any]:
        if "prefixItems" in schema:
            return [self.fill(part, depth + 1) for part in schema["prefixItems"]]
        items = schema.get("items", {"type": "string"})
        count = max(schema.get("minItems", 0), 1 if depth < MAX_DEPTH else 0)
        if items == {"type": "string"}:
            return [HINT, *(f"{HINT} ({number})" for number in range(2, count + 1))][:count]
        return [self.fill(items, depth + 1) for _ in range(count)]

    def _string(self, schema: Schema) -> str:
        text = FORMATS.get(schema.get("format", ""), self._text)
        return text.ljust(schema.get("minLength", 0), ".")[: schema.get("maxLength")]


def _number(schema: Schema) -> int | float:
    """Return 0, or the nearest number that the schema allows."""
    step = schema.get("multipleOf", 1)
    value = 0
    if "minimum" in schema:
        value = max(value, schema["minimum"])
    if "exclusiveMinimum" in schema and value <= schema["exclusiveMinimum"]:
        value = schema["exclusiveMinimum"] + step
    if "maximum" in schema:
        value = min(value, schema["maximum"])
    if "exclusiveMaximum" in schema and value >= schema["exclusiveMaximum"]:
        value = schema["exclusiveMaximum"] - step
    return -(-value // step) * step if "multipleOf" in schema else value


def _first_prompt(messages: list[ModelMessage]) -> str:
    for message in messages:
        if isinstance(message, ModelRequest):
            for part in message.parts:
                if isinstance(part, UserPromptPart):
                    text = part.content if isinstance(part.content, str) else str(part.content)
                    lines = [line for line in text.strip().splitlines() if line != OPEN]
                    return lines[0][:PROMPT_LENGTH] if lines else ""
    return ""
