"""Replays finished model requests and tool calls of a decision from its journal, and records new ones.

A unit is found by the digest of what was asked. So a changed prompt, tool or model is asked anew, and an answer never
belongs to another question. The run goes on with the value as it is read back, on the first attempt, too: otherwise the
next request of a retry could differ in a detail, and would be paid again.
"""

import json
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any, cast

import logfire
from pydantic_ai import RunContext
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.durable_exec import JSON_CODEC, record_durable_unit, replay_scope
from pydantic_ai.messages import (
    ModelMessage,
    ModelResponse,
    ToolCallPart,
    ToolReturn,
    ToolReturnContent,
)
from pydantic_ai.models import (
    CompletedStreamedResponse,
    Model,
    ModelRequestParameters,
    StreamedResponse,
)
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition
from pydantic_core import PydanticSerializationError

from ..store.decision_journal import DecisionJournal, current_journal
from .boundary import Boundary, Execute
from .drafting import DraftingModel
from .effect_calls import watching
from .unit_keys import RequestKey, call_as_json, call_digest, plain_id, request_key

NOT_JSON = (PydanticSerializationError, TypeError, ValueError, RecursionError)

_call_key: ContextVar[tuple[str, str] | None] = ContextVar("call_key", default=None)
"""The id of the tool call that runs, and its key within the decision."""


class JournaledModel(WrapperModel):
    """A model for one run, whose finished requests are not made again."""

    def __init__(self, wrapped: Model, journal: DecisionJournal, boundary: Boundary) -> None:
        super().__init__(wrapped)
        self._journal = journal
        self._boundary = boundary

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Return the recorded response, or make one request and record it."""
        key = request_key(self.model_id, messages, model_settings, model_request_parameters)
        if (entry := self._journal.take(key.digest)) is not None:
            return self._replay(messages, model_request_parameters, entry)
        response = await super().request(messages, model_settings, model_request_parameters)
        return await self._record(key, response)

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        """Stream the recorded response, or a new one, which is recorded once it is complete."""
        key = request_key(self.model_id, messages, model_settings, model_request_parameters)
        if (entry := self._journal.take(key.digest)) is not None:
            response = self._replay(messages, model_request_parameters, entry)
            yield CompletedStreamedResponse(
                response, model_request_parameters=model_request_parameters, replay_events=True
            )
            return
        async with super().request_stream(
            messages, model_settings, model_request_parameters, run_context
        ) as stream:
            yield stream
        if stream.state == "complete":
            await self._record(key, stream.get())

    def _replay(
        self, messages: list[ModelMessage], parameters: ModelRequestParameters, entry: bytes
    ) -> ModelResponse:
        record_durable_unit(executed=False)
        response = _read_response(entry)
        if isinstance(self.wrapped, DraftingModel):
            self.wrapped.show(messages, parameters, response)
        return response

    async def _record(self, key: RequestKey, response: ModelResponse) -> ModelResponse:
        """Record a response, and return it as a retry reads it."""
        record_durable_unit(executed=True)
        # Cleaned first: JSON would join two halves of a character that arrived apart.
        cleaned = self._boundary.cleaned(response)
        entry = json.dumps(JSON_CODEC.dump(ModelResponse, cleaned)).encode()
        name = f"A response of {self.model_name}"
        await self._journal.record(key.digest, entry, name, key.asked)
        return _read_response(entry)


class JournaledTools(AbstractCapability[Any]):
    """A capability for one run, whose finished tool calls are not run again."""

    def __init__(self, journal: DecisionJournal, boundary: Boundary) -> None:
        super().__init__()
        self._journal = journal
        self._boundary = boundary

    async def wrap_tool_execute(
        self,
        ctx: RunContext[Any],
        *,
        call: ToolCallPart,
        tool_def: ToolDefinition,
        args: dict[str, Any],
        handler: Execute,
    ) -> Any:
        """Return the recorded result, or run the tool and record it; a tool that raises is not recorded."""
        digest = call_digest(ctx.messages, call)
        with _naming(self._journal, call.tool_call_id, digest):
            if (entry := self._journal.take(digest)) is not None:
                record_durable_unit(executed=False)
                return _read_result(entry)
            with watching() as watched:
                result = self._boundary.bounded(await handler(args))
        record_durable_unit(executed=True)
        name = f"The result of {call.tool_name}"
        try:
            entry = _write_result(result)
        except NOT_JSON as error:
            logfire.warn(
                "{name} is not recorded, so a retry of its decision runs it again: {error}",
                name=name,
                error=repr(error),
            )
            return result
        asked = call_as_json(call, is_effect=watched.is_effect)
        await self._journal.record(digest, entry, name, asked)
        return _read_result(entry)


def journal_of(action_id: str) -> DecisionJournal | None:
    """Return the journal of the decision with this action id, if it is the one that is running."""
    journal = current_journal()
    return journal if journal is not None and journal.action_id == action_id else None


def journaled(
    model: Model, boundary: Boundary, journal: DecisionJournal | None
) -> tuple[Model, list[AbstractCapability[Any]]]:
    """Return the model and the capabilities of a run, with a journal if its decision has one."""
    if journal is None:
        return model, [boundary]
    return JournaledModel(model, journal, boundary), [boundary, JournaledTools(journal, boundary)]


@contextmanager
def replaying(journal: DecisionJournal | None) -> Generator[None]:
    """Leave replayed work out of traces and metrics, for the run in the block."""
    if journal is None:
        yield
        return
    with replay_scope():
        yield


def call_key(action_id: str, call_id: str) -> str:
    """Return the key of a tool call within its decision, the same on every retry.

    If an earlier call of the decision had the same id, as with providers that count calls, the key has a digest, too.
    """
    known = _call_key.get()
    return f"{action_id}/{known[1] if known is not None and known[0] == call_id else plain_id(call_id)}"


@contextmanager
def _naming(journal: DecisionJournal, call_id: str, digest: str) -> Generator[None]:
    first = journal.call_digests.setdefault(call_id, digest)
    name = plain_id(call_id)
    token = _call_key.set((call_id, name if first == digest else f"{name}/{digest[:16]}"))
    try:
        yield
    finally:
        _call_key.reset(token)


def _read_response(entry: bytes) -> ModelResponse:
    return cast("ModelResponse", JSON_CODEC.load(ModelResponse, json.loads(entry)))


def _write_result(result: Any) -> bytes:
    """Return a tool's result as JSON, with its kind: a `ToolReturn` would be read back as a dictionary.

    Raises:
        PydanticSerializationError: it has a value that JSON has not.
    """
    is_return = isinstance(result, ToolReturn)
    value = JSON_CODEC.dump(ToolReturn if is_return else ToolReturnContent, result)
    return json.dumps([is_return, value]).encode()


def _read_result(entry: bytes) -> Any:
    is_return, value = json.loads(entry)
    return JSON_CODEC.load(ToolReturn if is_return else ToolReturnContent, value)
