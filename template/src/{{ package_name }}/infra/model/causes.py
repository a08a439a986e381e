"""Classify errors of models: an outage, a wrong setting, or a rejected request.

After an outage or with a wrong setting, the event waits and spends no attempt. A request that the provider
rejects (400, 413, 422, too long, filtered) would be rejected again, so it is the event's failure.
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

from ...core.units import Seconds

YEAR: Seconds = 365 * 86_400

type Cause = Literal["outage", "misconfigured", "budget"]

TRANSIENT_STATUS = frozenset({408, 409, 425, 429})
"""Besides 5xx, statuses after which a retry of the same request may succeed."""
MISCONFIGURED = frozenset({401, 402, 403, 404, 405, 407, 410})
"""Statuses that mean a wrong key, account, model or URL, so no request succeeds.

405 comes from a wrong URL, 407 from a proxy, 410 from a model that was retired.
"""
OPERATOR_ERRORS = (ModelAuthenticationError, ModelNotFoundError, ModelQuotaExceededError)
KEY_SETTINGS = {
    "openai": "OPENAI_API_KEY",
    "anthropic": "ANTHROPIC_API_KEY",
    "google": "GOOGLE_API_KEY",
}


def cause_of(error: ModelAPIError) -> Cause | None:
    """Return the cause of an error; None if the provider rejected the request itself."""
    status = error.status_code if isinstance(error, ModelHTTPError) else None
    if isinstance(error, OPERATOR_ERRORS) or status in MISCONFIGURED:
        return "misconfigured"
    if status is not None:
        return "outage" if status >= 500 or status in TRANSIENT_STATUS else None
    return None if isinstance(error, ModelRequestRejectedError) else "outage"


def advice(error: ModelAPIError, model: str, named_by: str) -> str:
    """Return a clause that names the model and, for a wrong setting, the remedy.

    `named_by` is the setting, or the code, that names the model.
    """
    if cause_of(error) == "misconfigured":
        return f"{model} cannot be used: {_remedy(error, model, named_by)}"
    return f"the provider of {model} does not answer"


def _remedy(error: ModelAPIError, model: str, named_by: str) -> str:
    provider = model.partition(":")[0].partition("-")[0]
    key = KEY_SETTINGS.get(provider, "the provider's key")
    status = error.status_code if isinstance(error, ModelHTTPError) else None
    if isinstance(error, ModelQuotaExceededError) or status == 402:
        return f"the account of {key} has no quota left; top it up, or set another key"
    if isinstance(error, ModelAuthenticationError) or status in {401, 403}:
        return f"its provider refused the key; correct {key}"
    if status == 407:
        return "a proxy requires credentials; correct HTTPS_PROXY"
    address = ", or OPENAI_BASE_URL" if provider == "openai" else ""
    return f"its provider has no such model; correct {named_by}{address}"


def retry_after_of(error: ModelAPIError) -> Seconds | None:
    """Return the seconds to wait that the provider requests; None if it requests none.

    Some providers send a Unix time instead of the seconds to wait.
    """
    seconds = error.retry_after
    if seconds is None and isinstance(error, ModelHTTPError):
        seconds = _fractional_retry_after(error.headers or {})
    if seconds is None or not math.isfinite(seconds):
        return None
    if abs(seconds - time.time()) < YEAR:
        seconds -= time.time()
    return seconds if seconds > 0 else None


def _fractional_retry_after(headers: Mapping[str, str]) -> Seconds | None:
    """Return a `Retry-After` with a decimal point, which PydanticAI does not parse."""
    try:
        return float(headers.get("retry-after", ""))
    except ValueError:
        return None
