"""Guard each model by a circuit breaker, and all by one budget, so that an outage dead-letters no event.

Transient failures are timeouts, refused connections, 408, 409, 425, 429, 5xx and invalid responses. A wrong
name, a revoked key or an exhausted account needs an operator. Both raise `Unavailable`: events wait and
spend no attempt. Errors of rejected requests are raised unchanged.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple

import logfire
from pydantic_ai import RunContext
from pydantic_ai.exceptions import ModelAPIError
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings, merge_model_settings

from ...config import Settings
from ...core.units import Seconds
from ..database import Fetch, StartupError
from ..telemetry.metrics import count_model
from ..text import as_template, storable
from .breaker import CircuitBreaker, State, Unavailable
from .budget import Budget
from .causes import Cause, advice, cause_of, retry_after_of
from .models import build_model
from .responses import InvalidResponse, require_content, valid_response
from .retries import retry

type Retry = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]
"""Runs a call, and retries it after a transient failure."""

type Read = Callable[
    [Model, list[ModelMessage], ModelSettings | None, ModelRequestParameters],
    Awaitable[ModelResponse],
]
"""Makes one request to a model, and returns the complete response."""

OFFLINE = "offline"
CLIENT_TIMEOUT_MARGIN: Seconds = 1.0  # lets the client report its own timeout first


class ModelState(NamedTuple):
    """The state of one model's breaker, with the cause and error if it is open."""

    breaker: State
    retry_in: Seconds
    cause: Cause | None
    error: str | None


class GuardedModel(WrapperModel):
    """A model whose requests fail fast while its provider is unavailable or the budget is exhausted.

    It wraps the service's default model. `named` returns others, each with its own breaker.
    """

    def __init__(
        self, wrapped: Model, settings: Settings, fetch: Fetch, named_by: str = "DEFAULT_MODEL"
    ) -> None:
        super().__init__(wrapped)
        self.name = settings.default_model
        self.breaker = CircuitBreaker(
            settings.model_breaker_failures,
            settings.model_breaker_pause,
            settings.model_breaker_max_pause,
        )
        self.cause: Cause | None = None
        """Why the breaker is open; None while it is closed."""
        self._answers = 0
        self._service = settings
        self._fetch = fetch
        self._named_by = named_by
        self.budget = Budget(fetch, settings.model_tokens_per_hour, settings.model_cost_per_hour)
        """The hourly budget of all models."""
        self._others: dict[str, GuardedModel] = {}
        self._unusable: dict[str, str] = {}

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool | None:
        """Close this model and those that `named` opened."""
        for other in self._others.values():
            await other.__aexit__(None, None, None)
        return await super().__aexit__(exc_type, exc_val, exc_tb)

    async def named(self, name: str) -> "GuardedModel":
        """Return the guarded model of this name; if the default model is offline, return that one.

        Raises:
            Unavailable: the name is unknown, or its key is missing.
        """
        if name == self.name or self.name == OFFLINE:
            return self
        if name in self._unusable:
            raise Unavailable(self._unusable[name], self._service.model_breaker_max_pause)
        if name not in self._others:
            self._others[name] = self._build(name)
            await self._others[name].__aenter__()
        return self._others[name]

    def _build(self, name: str) -> "GuardedModel":
        settings = self._service.model_copy(update={"default_model": name})
        named_by = f"the model {name!r} of agent/"
        try:
            return GuardedModel(build_model(settings, named_by), settings, self._fetch, named_by)
        except StartupError as error:
            self._unusable[name] = str(error)
            logfire.error("Decisions wait, " + as_template(str(error)))
            raise Unavailable(str(error), self._service.model_breaker_max_pause) from error

    def check(self) -> None:
        """Check that a request would be admitted, before a run begins.

        Raises:
            Unavailable: the breaker is open.
        """
        self.breaker.check()

    def states(self) -> Mapping[str, ModelState]:
        """Return the state of each model that was used so far, by name, the default model first."""
        states = {model.name: model.state for model in (self, *self._others.values())}
        longest = self._service.model_breaker_max_pause
        for name, reason in self._unusable.items():
            states[name] = ModelState("open", longest, "misconfigured", reason)
        return states

    @property
    def state(self) -> ModelState:
        """The state of this model."""
        breaker = self.breaker
        error = breaker.error and storable(breaker.error)
        return ModelState(breaker.state, round(breaker.retry_in, 1), self.cause, error)

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        read: Read | None = None,
    ) -> ModelResponse:
        """Make one request, with retries; `read` makes each attempt in place of the wrapped model.

        Raises:
            Unavailable: the provider does not answer, a setting is wrong, or the budget is spent.
        """
        once, repeating = self._without_client_retries(model_settings)
        attempt = partial(read, self.wrapped) if read is not None else super().request
        send = partial(attempt, messages, once, model_request_parameters)
        async with self._guarded():
            response = await repeating(partial(self._with_timeout, send, model_settings))
        await self._record_usage(response)
        return response

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        """Make one request, with retries, and stream its response.

        Raises:
            Unavailable: the provider does not answer, a setting is wrong, or the budget is spent.
        """
        once, repeating = self._without_client_retries(model_settings)
        send = partial(
            super().request_stream, messages, once, model_request_parameters, run_context
        )
        async with self._guarded(), AsyncExitStack() as stack:

            async def open_stream() -> StreamedResponse:
                with valid_response(
                    self.wrapped.model_name
                ):  # but not the code that reads the stream
                    return await stack.enter_async_context(send())

            stream = await repeating(open_stream)
            yield stream
        await self._record_usage(stream.get())

    async def _with_timeout(
        self, send: Callable[[], Awaitable[ModelResponse]], given: ModelSettings | None
    ) -> ModelResponse:
        """Make a request within a total timeout: clients limit only the time of each read.

        Raises:
            ModelAPIError: the response was not complete in time.
            InvalidResponse: the response is not a model's answer.
        """
        named = (given or ModelSettings()).get("timeout")
        limit = named if isinstance(named, int | float) else self._service.model_timeout
        name = self.wrapped.model_name
        try:
            async with asyncio.timeout(limit + CLIENT_TIMEOUT_MARGIN):
                with valid_response(name):
                    response = await send()
                require_content(name, response)
                return response
        except TimeoutError as error:
            message = f"the response was not complete after MODEL_TIMEOUT ({limit:g} s)"
            raise ModelAPIError(name, message) from error

    async def _record_usage(self, response: ModelResponse) -> None:
        count_model(response)
        await self.budget.spend(response)

    def _without_client_retries(
        self, given: ModelSettings | None
    ) -> tuple[ModelSettings | None, Retry]:
        """Return settings without the client's retries, and a function that retries instead.

        Clients obey any `Retry-After`, some for weeks, while the event is in flight. Here, a wait that is
        longer than the breaker's first pause ends the retries.
        """
        repeats = (given or ModelSettings()).get("max_retries", self._service.model_retries)
        if self.breaker.state != "closed":
            repeats = 0  # this request is the probe

        return merge_model_settings(given, ModelSettings(max_retries=0)), partial(
            retry, repeats, self._service.model_breaker_pause
        )

    @asynccontextmanager
    async def _guarded(self) -> AsyncGenerator[None]:
        """Admit the call in the block, and record its result with the breaker."""
        self.breaker.admit()
        try:
            await self.budget.check()
            yield
        except Unavailable as spent:
            self._log_opening("budget", str(spent))
            spent.retry_in = self.breaker.open(str(spent), spent.retry_in)
            raise
        except ModelAPIError as error:
            cause = cause_of(error)
            if cause is None:
                self._record_success()  # the provider responds, although it rejects the request
                raise
            raise self._unavailable(error, cause) from error
        except BaseException:
            self.breaker.record_cancelled()
            raise
        self._record_success()

    def _record_success(self) -> None:
        self._answers += 1
        self.breaker.record_success()
        self.cause = None

    def _unavailable(self, error: ModelAPIError, cause: Cause) -> Unavailable:
        what = advice(error, self.name, self._named_by)
        reason = f"{what} ({error})"
        pause = self.breaker.record_failure(
            reason, retry_after_of(error), at_once=cause == "misconfigured"
        )
        if self.breaker.state != "closed":
            self._log_opening(cause, what, str(error))
        unavailable = Unavailable(reason, pause)
        if isinstance(error, InvalidResponse):
            unavailable.answers = self._answers
        return unavailable

    def _log_opening(self, cause: Cause, what: str, error: str = "") -> None:
        """Log the cause when the breaker opens, once and not for each waiting event.

        `what` is part of the message: Logfire would redact an attribute that names a key.
        """
        if cause == self.cause:
            return
        self.cause = cause
        log = logfire.error if cause == "misconfigured" else logfire.warn
        log("Decisions wait, " + as_template(what) + ". {error}", error=error)
