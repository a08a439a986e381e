"""Deprecated alias of `infra.model.breaker`."""

from .deprecated import warn_deprecated
from .model.breaker import CircuitBreaker as CircuitBreaker
from .model.breaker import Unavailable as Unavailable

warn_deprecated("infra.breaker", "infra.model.breaker")
