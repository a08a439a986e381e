"""Waits that something outside asks for, within what the settings allow.

A provider may write anything into `Retry-After`, and a trigger anything into `Unavailable`. A wait that
reaches the database survives restarts, so none goes there unbounded.
"""

import math

from ..core.types import Seconds


def bounded(seconds: Seconds, longest: Seconds) -> Seconds:
    """Return the wait, but not less than none and at most `longest`; that long for NaN."""
    return longest if math.isnan(seconds) else min(max(seconds, 0.0), longest)
