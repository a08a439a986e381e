"""Finds and claims deliveries whose lease expired, because their worker died or hung."""

import time
from collections.abc import Sequence

from ...core.units import Seconds
from ..database import Fetch, Row
from . import claim
from .consumer_config import ConsumerConfig


class ExpiredLeases:
    """Looks for expired leases once per fallback check."""

    def __init__(
        self, fetch: Fetch, config: ConsumerConfig, lease: Seconds, fallback: Seconds
    ) -> None:
        self._fetch = fetch
        self._config = config
        self._lease = lease
        self._fallback = fallback
        self._next_look = 0.0
        self.found = False
        """Whether there may be expired leases to claim."""

    async def look(self) -> bool:
        """Look for expired leases, and end overlong waits; return whether deliveries became claimable."""
        now = time.monotonic()
        if self.found or now < self._next_look:
            return False
        self._next_look = now + self._fallback
        who, types, longest = self._config.subscriber, self._config.types, self._config.longest_wait
        recalled = await claim.end_overlong_waits(self._fetch, who, longest)
        self.found = await claim.any_expired(self._fetch, who, types, self._lease)
        return self.found or bool(recalled)

    async def claim(self) -> Sequence[Row]:
        """Claim one of them, to be handled alone; return no row if there is none left."""
        rows = await claim.claim_expired(
            self._fetch,
            self._config.subscriber,
            self._lease,
            self._config.types,
            self._config.backoff.attempts,
        )
        self.found = bool(rows)  # another worker may have been faster
        return rows
