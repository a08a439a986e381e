"""A model behind a circuit breaker and a budget, so that an outage empties nothing into the dead letters.

What passes by itself (timeouts, refused connections, 408, 425, 429 and 5xx) raises `Unavailable`, for
which events wait without spending attempts. What does not, such as a rejected request, goes through.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import logfire
from pydantic_ai import RunContext
from pydantic_ai.exceptions import ModelAPIError, ModelHTTPError, ModelRequestRejectedError
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings

from ..config import Settings
from .breaker import CircuitBreaker, Unavailable
from .budget import Budget
from .database import Fetch
from .metrics import count_model

PASSING = frozenset({408, 425, 429})  # besides 5xx: what the same request may not meet again


class GuardedModel(WrapperModel):
    """Makes a model's requests, unless its provider is away or the hour's budget is spent."""

    def __init__(self, wrapped: Model, settings: Settings, fetch: Fetch) -> None:
        super().__init__(wrapped)
        self.breaker = CircuitBreaker(
            settings.model_breaker_failures,
            settings.model_breaker_pause,
            settings.model_breaker_max_pause,
        )
        self._budget = Budget(fetch, settings.model_tokens_per_hour, settings.model_cost_per_hour)

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Make one request.

        Raises:
            Unavailable: the provider is away, or the budget is spent.
        """
        async with self._watched():
            response = await super().request(messages, model_settings, model_request_parameters)
        await self._spent(response)
        return response

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        """Make one request and stream its answer.

        Raises:
            Unavailable: the provider is away, or the budget is spent.
        """
        async with (
            self._watched(),
            super().request_stream(
                messages, model_settings, model_request_parameters, run_context
            ) as stream,
        ):
            yield stream
        await self._spent(stream.get())

    async def _spent(self, response: ModelResponse) -> None:
        count_model(response)
        await self._budget.spend(response)

    @asynccontextmanager
    async def _watched(self) -> AsyncGenerator[None]:
        """Refuse, or let a call through and take note of how it ends."""
        self.breaker.admit()
        try:
            await self._budget.check()
            yield
        except Unavailable as spent:
            self.breaker.open(str(spent), spent.retry_in)
            raise
        except ModelAPIError as error:
            if not passes_by_itself(error):
                self.breaker.succeeded()  # it answers, though not as one would like
                raise
            pause = self.breaker.failed(str(error), error.retry_after)
            logfire.warn(
                "The model's provider is away: {error}", error=str(error), state=self.breaker.state
            )
            raise Unavailable(f"the model's provider is away: {error}", pause) from error
        except BaseException:
            self.breaker.abandoned()
            raise
        self.breaker.succeeded()


def passes_by_itself(error: ModelAPIError) -> bool:
    """Tell whether the same request may succeed later."""
    if isinstance(error, ModelHTTPError):
        return error.status_code >= 500 or error.status_code in PASSING
    return not isinstance(error, ModelRequestRejectedError)
