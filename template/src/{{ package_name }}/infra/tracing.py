"""Deprecated alias of `infra.telemetry.tracing`."""

from .deprecated import warn_deprecated
from .telemetry.tracing import current_decision as current_decision
from .telemetry.tracing import deciding as deciding
from .telemetry.tracing import deciding_together as deciding_together

warn_deprecated("infra.tracing", "infra.telemetry.tracing")
