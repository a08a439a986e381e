"""Bounds the waits that providers and triggers ask for.

`Retry-After` and `Unavailable` may contain any number. The database keeps a wait across restarts, so none is
stored unbounded.
"""

import math

from ..core.units import Seconds


def bounded(seconds: Seconds, longest: Seconds) -> Seconds:
    """Return `seconds` within 0 and `longest`; `longest` for NaN."""
    return longest if math.isnan(seconds) else min(max(seconds, 0.0), longest)
