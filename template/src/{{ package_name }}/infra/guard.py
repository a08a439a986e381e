"""Models behind a circuit breaker each and one budget, so that an outage empties nothing into the dead letters.

Waiting helps with timeouts, refused connections, 408, 409, 425, 429, 5xx and answers that are none; an operator
with a wrong name, a revoked key or an exhausted account. For both `Unavailable` is raised: events wait and spend no attempt.
What the provider rejects goes through.
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
from tenacity import AsyncRetrying, RetryCallState, stop_after_attempt
from tenacity.wait import wait_random_exponential

from ..config import Settings
from ..core.types import Seconds
from .answers import NoAnswer, require_content, required
from .breaker import CircuitBreaker, State, Unavailable
from .budget import Budget
from .causes import Cause, advice, asked_wait, cause_of
from .database import Fetch, StartupError
from .metrics import count_model
from .models import build_model
from .text import as_template, storable

type Repeat = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]
"""Runs a call, again if it failed in a way that may pass soon."""

OFFLINE = "offline"
CLIENTS_TURN: Seconds = 1.0  # a client that limits each part of an answer reports that itself
BACKOFF = wait_random_exponential(multiplier=0.5, max=8)  # before a request is repeated


class ModelState(NamedTuple):
    """Whether one model is asked, and why not."""

    breaker: State
    retry_in: Seconds
    cause: Cause | None
    error: str | None


class GuardedModel(WrapperModel):
    """Makes a model's requests, unless its provider is unavailable or the hour's budget is spent.

    It is the service's default model; `named` gives others, each with a breaker of its own.
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
        self._budget = Budget(fetch, settings.model_tokens_per_hour, settings.model_cost_per_hour)
        self._others: dict[str, GuardedModel] = {}
        self._unusable: dict[str, str] = {}

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool | None:
        """Close this model and the others."""
        for other in self._others.values():
            await other.__aexit__(None, None, None)
        return await super().__aexit__(exc_type, exc_val, exc_tb)

    async def named(self, name: str) -> "GuardedModel":
        """Return the model of this name, guarded likewise; while the default is offline, that one.

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
        """Go on if a request would be made now, so that no run begins in vain.

        Raises:
            Unavailable: the breaker is open.
        """
        self.breaker.check()

    def states(self) -> Mapping[str, ModelState]:
        """Return how each model is that was used so far, by name; the default one is the first."""
        states = {model.name: model.state for model in (self, *self._others.values())}
        longest = self._service.model_breaker_max_pause
        for name, reason in self._unusable.items():
            states[name] = ModelState("open", longest, "misconfigured", reason)
        return states

    @property
    def state(self) -> ModelState:
        """How this model is."""
        breaker = self.breaker
        error = breaker.error and storable(breaker.error)
        return ModelState(breaker.state, round(breaker.retry_in, 1), self.cause, error)

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Make one request.

        Raises:
            Unavailable: the provider does not answer, a setting is wrong, or the budget is spent.
        """
        once, repeating = self._repeating(model_settings)
        send = partial(super().request, messages, once, model_request_parameters)
        async with self._watched():
            response = await repeating(partial(self._in_time, send, model_settings))
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
            Unavailable: the provider does not answer, a setting is wrong, or the budget is spent.
        """
        once, repeating = self._repeating(model_settings)
        send = partial(
            super().request_stream, messages, once, model_request_parameters, run_context
        )
        async with self._watched(), AsyncExitStack() as stack:

            async def open_stream() -> StreamedResponse:
                with required(self.wrapped.model_name):  # and not what reads the stream
                    return await stack.enter_async_context(send())

            stream = await repeating(open_stream)
            yield stream
        await self._spent(stream.get())

    async def _in_time(
        self, send: Callable[[], Awaitable[ModelResponse]], given: ModelSettings | None
    ) -> ModelResponse:
        """Make a request for as long as one may take: clients limit only each part of an answer.

        Raises:
            ModelAPIError: it took longer, like that of a provider that sends a byte now and then.
            NoAnswer: what came is none.
        """
        named = (given or ModelSettings()).get("timeout")
        limit = named if isinstance(named, int | float) else self._service.model_timeout
        name = self.wrapped.model_name
        try:
            async with asyncio.timeout(limit + CLIENTS_TURN):
                with required(name):
                    response = await send()
                require_content(name, response)
                return response
        except TimeoutError as error:
            message = f"the answer was not complete after MODEL_TIMEOUT ({limit:g} s)"
            raise ModelAPIError(name, message) from error

    async def _spent(self, response: ModelResponse) -> None:
        count_model(response)
        await self._budget.spend(response)

    def _repeating(self, given: ModelSettings | None) -> tuple[ModelSettings | None, Repeat]:
        """Return settings for one attempt, and what repeats it.

        Clients would repeat it themselves, but wait as long as `Retry-After` says, some for weeks,
        while the event is in flight. A wait longer than the breaker's first pause is not made here.
        """
        repeats = (given or ModelSettings()).get("max_retries", self._service.model_retries)
        if self.breaker.state != "closed":
            repeats = 0  # this is a try whether the provider is back

        def again(state: RetryCallState) -> bool:
            error = state.outcome.exception() if state.outcome else None
            return (
                isinstance(error, ModelAPIError)
                and cause_of(error) == "outage"
                and (asked_wait(error) or 0.0) <= self._service.model_breaker_pause
            )

        retrying = AsyncRetrying(
            retry=again, stop=stop_after_attempt(1 + repeats), wait=_before_again, reraise=True
        )
        return merge_model_settings(given, ModelSettings(max_retries=0)), retrying

    @asynccontextmanager
    async def _watched(self) -> AsyncGenerator[None]:
        """Refuse, or let a call through and take note of how it ends."""
        self.breaker.admit()
        try:
            await self._budget.check()
            yield
        except Unavailable as spent:
            self._opening("budget", str(spent))
            spent.retry_in = self.breaker.open(str(spent), spent.retry_in)
            raise
        except ModelAPIError as error:
            cause = cause_of(error)
            if cause is None:
                self._answered()  # it answers, though not as one would like
                raise
            raise self._unavailable(error, cause) from error
        except BaseException:
            self.breaker.abandoned()
            raise
        self._answered()

    def _answered(self) -> None:
        self._answers += 1
        self.breaker.succeeded()
        self.cause = None

    def _unavailable(self, error: ModelAPIError, cause: Cause) -> Unavailable:
        what = advice(error, self.name, self._named_by)
        reason = f"{what} ({error})"
        pause = self.breaker.failed(reason, asked_wait(error), at_once=cause == "misconfigured")
        if self.breaker.state != "closed":
            self._opening(cause, what, str(error))
        unavailable = Unavailable(reason, pause)
        if isinstance(error, NoAnswer):
            unavailable.answers = self._answers
        return unavailable

    def _opening(self, cause: Cause, what: str, error: str = "") -> None:
        """Log once why the breaker opens, not once for each event that waits for it.

        `what` is part of the template: of an attribute that names a key, Logfire would keep nothing.
        """
        if cause == self.cause:
            return
        self.cause = cause
        log = logfire.error if cause == "misconfigured" else logfire.warn
        log("Decisions wait, " + as_template(what) + ". {error}", error=error)


def _before_again(state: RetryCallState) -> Seconds:
    error = state.outcome.exception() if state.outcome else None
    asked = asked_wait(error) if isinstance(error, ModelAPIError) else None
    return asked or BACKOFF(state)
