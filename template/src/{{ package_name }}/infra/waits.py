"""Waits that something outside asks for, within what the settings allow.

A provider may write anything into `Retry-After`, and a trigger anything into `Unavailable`. A wait that
reaches the database survives restarts, so none goes there unbounded.
"""

import math
import time
from collections.abc import Mapping

from pydantic_ai.exceptions import ModelAPIError, ModelHTTPError

from ..core.types import Seconds

YEAR: Seconds = 365 * 86_400


def bounded(seconds: Seconds, longest: Seconds) -> Seconds:
    """Return the wait, but not less than none and at most `longest`; that long for NaN."""
    return longest if math.isnan(seconds) else min(max(seconds, 0.0), longest)


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
