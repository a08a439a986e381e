"""The deliveries that one consumer has in flight, and which of them are abandoned.

Leases are renewed for these deliveries only. One that was yielded is abandoned once no block of
`Memory.settling` started or ended in its scope for the longest time that a decision may take. Time in which
the process was at its limit of concurrent decisions does not count, since deliveries then wait.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass

from ...config import Settings
from ...core.units import Scope, Seconds
from .claim import Token

MEMORY_SHARE = 0.25
"""The share of CONTEXT_CACHE_BYTES for yielded events: a loop may gather events that take 40 times their text."""
MAX_ROUNDS = 4  # decisions that may come before that of a delivery that was yielded already


@dataclass(slots=True)
class Delivery:
    """A delivery in flight."""

    token: Token
    event_id: str
    scope: Scope
    is_yielded: bool = False
    """Whether the loop has it; otherwise it is buffered."""
    weight: int = 0
    """The estimated bytes of memory of its event; 0 while it is buffered."""
    blocks: int = 0
    """How many blocks of `Memory.settling` work on it."""
    started_at: float = 0.0
    """When the last of them started, on this process's monotonic clock."""

    def __str__(self) -> str:
        """Return the delivery's event, scope and `seq` for a log line."""
        return f"event {self.event_id} of scope {self.scope!r} (seq {self.token.seq})"


class InFlight:
    """Tracks the deliveries of one consumer, and the time of their last activity."""

    def __init__(self, settings: Settings, batch_size: int) -> None:
        # A decision's own limit starts after its lock and ends before its last commit, hence one lease more.
        self._time_limit: Seconds = settings.event_handler_timeout + settings.event_lease
        self._concurrency = settings.agent_concurrency
        # In the parallel loop, decisions on other scopes come first, each within the time limit.
        self._rounds = min(MAX_ROUNDS, max(1, batch_size // self._concurrency))
        self._deliveries: dict[int, Delivery] = {}
        self._scope_activity: dict[Scope, float] = {}
        """When a delivery of the scope was yielded, or a handler started or ended."""
        self._active_count = 0
        self._max_bytes = int(settings.context_cache_bytes * MEMORY_SHARE)
        self._yielded_bytes = 0
        self._saturated_at = 0.0
        """When the process was last seen at its limit of concurrent decisions."""
        self.is_waiting = True
        """Whether the loop waits for its next delivery."""
        self._last_activity = time.monotonic()

    def __len__(self) -> int:
        """Return the number of deliveries."""
        return len(self._deliveries)

    def __contains__(self, token: Token) -> bool:
        """Return whether this claim is in flight, as opposed to another one of the same event."""
        found = self._deliveries.get(token.seq)
        return found is not None and found.token.fence == token.fence

    @property
    def is_exclusive(self) -> bool:
        """Whether a delivery must be handled with nothing else in flight."""
        return any(each.token.alone for each in self._deliveries.values())

    def add(self, delivery: Delivery) -> None:
        """Add a claimed delivery."""
        self._deliveries[delivery.token.seq] = delivery

    def remove(self, tokens: Iterable[Token]) -> None:
        """Remove deliveries; a stale token leaves a newer claim of the same event."""
        for token in tokens:
            if token in self:
                delivery = self._deliveries.pop(token.seq)
                self._active_count -= bool(delivery.blocks)
                self._yielded_bytes -= delivery.weight

    def all(self) -> list[Delivery]:
        """Return all deliveries."""
        return list(self._deliveries.values())

    def tokens(self) -> list[Token]:
        """Return the tokens of all deliveries."""
        return [each.token for each in self._deliveries.values()]

    @property
    def has_capacity(self) -> bool:
        """Whether another event may be yielded, by the memory that the unsettled ones take."""
        return self._yielded_bytes < self._max_bytes

    def mark_yielded(self, token: Token, weight: int) -> None:
        """Record that the loop gets a delivery whose event takes `weight` bytes of memory."""
        delivery = self._deliveries[token.seq]
        delivery.is_yielded, delivery.weight = True, weight
        self._yielded_bytes += weight
        self.is_waiting = False
        self._last_activity = self._scope_activity[delivery.scope] = time.monotonic()

    def handler_started(self, token: Token) -> None:
        """Record that a handler starts to work on a delivery."""
        if token in self:
            delivery = self._deliveries[token.seq]
            self._active_count += not delivery.blocks
            delivery.blocks += 1
            delivery.started_at = self._record_activity(delivery.scope)

    def handler_ended(self, token: Token) -> None:
        """Record that a handler no longer works on a delivery."""
        if token in self and (delivery := self._deliveries[token.seq]).blocks:
            self._record_activity(delivery.scope)
            delivery.blocks -= 1
            self._active_count -= not delivery.blocks

    def _record_activity(self, scope: Scope) -> float:
        now = self._last_activity = self._scope_activity[scope] = time.monotonic()
        if self._active_count >= self._concurrency:
            self._saturated_at = now
        return now

    def abandoned(self) -> list[Delivery]:
        """Return the yielded deliveries that no handler works on, or one that exceeds its time limit."""
        now = time.monotonic()
        if self._active_count >= self._concurrency:
            self._saturated_at = now
        scopes = {each.scope for each in self._deliveries.values()}
        self._scope_activity = {
            scope: at for scope, at in self._scope_activity.items() if scope in scopes
        }
        deliveries = [each for each in self._deliveries.values() if each.is_yielded]
        return [each for each in deliveries if now - self._active_at(each) > self._limit(each)]

    def _limit(self, delivery: Delivery) -> Seconds:
        return self._time_limit if delivery.blocks else self._time_limit * self._rounds

    def _active_at(self, delivery: Delivery) -> float:
        if delivery.blocks:
            return delivery.started_at
        return max(self._scope_activity.get(delivery.scope, 0.0), self._saturated_at)

    def is_loop_stuck(self) -> bool:
        """Return whether the loop asks for no delivery, and no handler has started or ended for the limit."""
        return not self.is_waiting and time.monotonic() - self._last_activity > self._time_limit
