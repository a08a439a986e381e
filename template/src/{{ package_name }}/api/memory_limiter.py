"""Limit the memory of all bodies and messages that are being read or handled."""

from ..config import Settings
from ..infra.store.weights import weigh

PART_OVERHEAD = 64
"""Bytes of memory for a part of a body, besides its content."""
DEFAULT_BODIES = 16  # largest bodies that fit if `API_MAX_INTAKE_BYTES` is unset


def weight(data: bytes) -> int:
    """Return an upper bound of the memory, in bytes, that a part of a body takes when parsed."""
    return PART_OVERHEAD + weigh(data)


def max_body_bytes(settings: Settings) -> int:
    """Return the size in bytes of the largest body that any route accepts."""
    return max(settings.api_max_batch_bytes, settings.api_max_body_bytes)


class MemoryLimiter:
    """A counter of memory in use, in bytes, with a limit."""

    def __init__(self, settings: Settings) -> None:
        at_least = DEFAULT_BODIES * max_body_bytes(settings)
        self.limit = settings.api_max_intake_bytes or at_least
        self._acquired = 0

    def try_acquire(self, weight: int, limit: int | None = None) -> bool:
        """Acquire memory and return True, or return False if that exceeds `limit` (default: the whole)."""
        if self._acquired + weight > (self.limit if limit is None else limit):
            return False
        self._acquired += weight
        return True

    def release(self, weight: int) -> None:
        """Release acquired memory."""
        self._acquired -= weight
