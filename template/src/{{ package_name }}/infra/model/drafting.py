"""A model that shows its text in a draft while it is generated.

To the run it is a model that answers as a whole: the guard's time limit, retries, breaker and budget cover the stream
from its first to its last piece, and a run has the result that it has without a draft.
"""

from pydantic_ai.exceptions import ModelAPIError
from pydantic_ai.messages import (
    ModelMessage,
    ModelResponse,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
)
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings

from ..store.drafts import Draft
from ..text import describe
from .guard import GuardedModel
from .responses import PARSING_ERRORS, invalid_response, require_end

SEPARATOR = "\n\n"  # between the texts of two responses


class DraftingModel(WrapperModel):
    """A model for one run, whose text is added to a draft as it arrives."""

    def __init__(self, wrapped: Model, draft: Draft) -> None:
        super().__init__(wrapped)
        self._draft = draft
        self._start = draft.length  # of the text of the current response

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Make one request; the response is complete when it is returned."""
        if not _outputs_text(model_request_parameters):
            return await super().request(messages, model_settings, model_request_parameters)
        if not _was_refused(messages):
            self._start = self._draft.length
        if isinstance(self.wrapped, GuardedModel):
            return await self.wrapped.request(
                messages, model_settings, model_request_parameters, self._read
            )
        return await self._read(self.wrapped, messages, model_settings, model_request_parameters)

    def show(
        self,
        messages: list[ModelMessage],
        parameters: ModelRequestParameters,
        response: ModelResponse,
    ) -> None:
        """Add the text of a recorded response, for which no request is made."""
        if not _outputs_text(parameters):
            return
        if not _was_refused(messages):
            self._start = self._draft.length
        self._draft.cut(self._start)
        self._add(response.text or "")

    async def _read(
        self,
        model: Model,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Make one attempt; the text of an earlier attempt is void.

        Raises:
            ModelAPIError: the response was interrupted.
            InvalidResponse: the response is not a model's answer.
        """
        self._draft.cut(self._start)
        try:
            async with model.request_stream(messages, model_settings, parameters) as stream:
                await self._follow(stream, model.model_name)
                response = stream.get()
            require_end(model, response)
            return response
        except NotImplementedError:  # a model without streams
            response = await model.request(messages, model_settings, parameters)
            self._add(response.text or "")
            return response

    async def _follow(self, stream: StreamedResponse, model: str) -> None:
        try:
            async for event in stream:
                if isinstance(event, PartStartEvent) and isinstance(event.part, TextPart):
                    self._add(event.part.content)
                elif isinstance(event, PartDeltaEvent) and isinstance(event.delta, TextPartDelta):
                    self._add(event.delta.content_delta)
        except stream.get_stream_cancel_errors() as error:  # those of the connection
            raise ModelAPIError(
                model, f"the response was interrupted: {describe(error)}"
            ) from error
        except PARSING_ERRORS as error:
            raise invalid_response(model, error) from error

    def _add(self, text: str) -> None:
        if text and 0 < self._start == self._draft.length:
            text = SEPARATOR + text
        self._draft.add(text)


def _outputs_text(parameters: ModelRequestParameters) -> bool:
    """Return whether text may be the output, and not JSON of a structured one."""
    return parameters.allow_text_output and parameters.output_object is None


def _was_refused(messages: list[ModelMessage]) -> bool:
    """Return whether the last response is asked for again: without a call of a tool, it would have ended the run."""
    responses = [message for message in messages if isinstance(message, ModelResponse)]
    return bool(responses) and not responses[-1].tool_calls
