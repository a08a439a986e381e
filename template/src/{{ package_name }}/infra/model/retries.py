"""Retries a model request after transient failures, in place of the provider's client."""

from collections.abc import Awaitable, Callable

from pydantic_ai.exceptions import ModelAPIError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt
from tenacity.wait import wait_random_exponential

from ...core.units import Seconds
from .causes import cause_of, retry_after_of

BACKOFF = wait_random_exponential(multiplier=0.5, max=8)  # before a retry, in seconds


async def retry[Answer](
    repeats: int, longest_wait: Seconds, call: Callable[[], Awaitable[Answer]]
) -> Answer:
    """Make a call, and retry transient failures up to `repeats` times.

    A provider that asks for a wait of more than `longest_wait` ends the retries. The first attempt runs
    without tenacity, whose setup takes a tenth of the CPU time of a request.
    """
    try:
        return await call()
    except ModelAPIError as error:
        first = [error]

    async def attempt() -> Answer:
        if first:
            raise first.pop()
        return await call()

    retrying = AsyncRetrying(
        retry=retry_if_exception(lambda error: _is_transient(error, longest_wait)),
        stop=stop_after_attempt(1 + repeats),
        wait=_delay,
        reraise=True,
    )
    return await retrying(attempt)


def _is_transient(error: BaseException, longest_wait: Seconds) -> bool:
    return (
        isinstance(error, ModelAPIError)
        and cause_of(error) == "outage"
        and (retry_after_of(error) or 0.0) <= longest_wait
    )


def _delay(state: RetryCallState) -> Seconds:
    error = state.outcome.exception() if state.outcome else None
    asked = retry_after_of(error) if isinstance(error, ModelAPIError) else None
    return asked or BACKOFF(state)
