"""The buffer of one consumer: deliveries that are claimed and not yet yielded."""

import asyncio
from collections import deque
from collections.abc import Iterable

from ...core.units import Scope
from ..database import Row
from .claim import Token


class Buffer:
    """Keeps buffered deliveries in order of `seq`."""

    def __init__(self) -> None:
        self.arrived = asyncio.Event()
        """Set when there may be a delivery to yield; its reader clears it."""
        self._deliveries: deque[tuple[Row, Token]] = deque()

    def __len__(self) -> int:
        """Return the number of deliveries."""
        return len(self._deliveries)

    def add(self, deliveries: Iterable[tuple[Row, Token]]) -> None:
        """Add claimed deliveries."""
        # A released delivery is claimed again after later ones, which may still be buffered.
        self._deliveries = deque(
            sorted([*self._deliveries, *deliveries], key=lambda each: each[1].seq)
        )
        self.arrived.set()

    def pop(self) -> tuple[Row, Token]:
        """Remove and return the first delivery."""
        return self._deliveries.popleft()

    def take(self, scope: Scope) -> list[Token]:
        """Remove the deliveries of a scope and return their tokens."""
        buffered, self._deliveries = self._deliveries, deque()
        self._deliveries.extend(each for each in buffered if each[0]["scope"] != scope)
        return [token for row, token in buffered if row["scope"] == scope]

    def clear(self) -> list[Token]:
        """Remove all deliveries and return their tokens."""
        buffered, self._deliveries = self._deliveries, deque()
        return [token for _, token in buffered]
