"""Why a model did not answer: an outage that ends by itself, a setting that is wrong, or the request.

An outage and a wrong setting are no fault of the event, which waits and spends no attempt. A request that
the provider rejects (400, 413, 422, too long, filtered) would be rejected again: that is the event's failure.
"""

import math
import time
from collections.abc import Mapping
from typing import Literal

from pydantic_ai.exceptions import (
    ModelAPIError,
    ModelAuthenticationError,
    ModelHTTPError,
    ModelNotFoundError,
    ModelQuotaExceededError,
    ModelRequestRejectedError,
)

from ..core.types import Seconds

YEAR: Seconds = 365 * 86_400

type Cause = Literal["outage", "misconfigured", "budget"]

PASSING = frozenset({408, 409, 425, 429})  # besides 5xx: what the same request may not meet again
# What no request can help: key, account, model or address are wrong. 405, 407 and 410 come from a
# wrong address, a proxy, and a model that was retired.
MISCONFIGURED = frozenset({401, 402, 403, 404, 405, 407, 410})
OPERATORS = (ModelAuthenticationError, ModelNotFoundError, ModelQuotaExceededError)
KEYS = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY", "google": "GOOGLE_API_KEY"}


def cause_of(error: ModelAPIError) -> Cause | None:
    """Return why the model did not answer; None if the request itself was rejected."""
    status = error.status_code if isinstance(error, ModelHTTPError) else None
    if isinstance(error, OPERATORS) or status in MISCONFIGURED:
        return "misconfigured"
    if status is not None:
        return "outage" if status >= 500 or status in PASSING else None
    return None if isinstance(error, ModelRequestRejectedError) else "outage"


def advice(error: ModelAPIError, model: str, named_by: str) -> str:
    """Return which model does not answer, and what to correct if that is an operator's task.

    `named_by` is the setting, or the code, that names the model.
    """
    if cause_of(error) == "misconfigured":
        return f"{model} cannot be used: {_remedy(error, model, named_by)}"
    return f"the provider of {model} does not answer"


def _remedy(error: ModelAPIError, model: str, named_by: str) -> str:
    provider = model.partition(":")[0].partition("-")[0]
    key = KEYS.get(provider, "the provider's key")
    status = error.status_code if isinstance(error, ModelHTTPError) else None
    if isinstance(error, ModelQuotaExceededError) or status == 402:
        return f"the account of {key} has no quota left; top it up, or set another key"
    if isinstance(error, ModelAuthenticationError) or status in {401, 403}:
        return f"its provider refused the key; correct {key}"
    if status == 407:
        return "a proxy wants credentials; correct HTTPS_PROXY"
    address = ", or OPENAI_BASE_URL" if provider == "openai" else ""
    return f"its provider does not know it; correct {named_by}{address}"


def asked_wait(error: ModelAPIError) -> Seconds | None:
    """Return how many seconds the provider asks to be left alone; None if it names no such time.

    Some providers write a time in seconds since 1970 where the seconds to wait belong.
    """
    seconds = error.retry_after
    if seconds is None and isinstance(error, ModelHTTPError):
        seconds = _decimal(error.headers or {})
    if seconds is None or not math.isfinite(seconds):
        return None
    if abs(seconds - time.time()) < YEAR:
        seconds -= time.time()
    return seconds if seconds > 0 else None


def _decimal(headers: Mapping[str, str]) -> Seconds | None:
    """Return a `Retry-After` with a decimal point, which PydanticAI does not read."""
    try:
        return float(headers.get("retry-after", ""))
    except ValueError:
        return None
