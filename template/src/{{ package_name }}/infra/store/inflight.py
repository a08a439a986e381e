"""What one consumer has claimed and not settled: what is buffered, and what somebody works on.

A lease is renewed for these deliveries only. One that was handed out is abandoned after the time
that a decision may take, if no block of `Memory.settling` began or ended in its scope. Time
in which every turn of the process was taken does not count: such deliveries wait for a turn.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass

from ...config import Settings
from ...core.types import Scope, Seconds
from .claim import Token

MOST_ROUNDS = 4  # decisions that may come before one that was handed out already


@dataclass(slots=True)
class Delivery:
    """One delivery that was claimed and is not settled."""

    token: Token
    event_id: str
    scope: Scope
    handed_out: bool = False
    blocks: int = 0
    """How many blocks of `Memory.settling` are working on it."""
    begun: float = 0.0
    """When the last of them began, on this process's monotonic clock."""

    def __str__(self) -> str:
        """Name the delivery for a log line."""
        return f"event {self.event_id} of scope {self.scope!r} (seq {self.token.seq})"


class InFlight:
    """The deliveries that one consumer has in flight."""

    def __init__(self, settings: Settings, batch_size: int) -> None:
        # The time limit of a decision begins after its lock, and ends before its last commit.
        self._patience: Seconds = settings.event_handler_timeout + settings.event_lease
        self._turns = settings.agent_concurrency
        # A consumer of the parallel loop decides on other scopes first, each within the time limit.
        self._rounds = min(MOST_ROUNDS, max(1, batch_size // self._turns))
        self._deliveries: dict[int, Delivery] = {}
        self._active: dict[Scope, float] = {}
        self._working = 0
        self._all_turns_taken = 0.0
        self.asking = True
        """Whether the consumer waits for its next delivery."""
        self._asked = time.monotonic()

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._deliveries)

    def __contains__(self, token: Token) -> bool:
        """Tell whether this very claim is in flight, and not another one of the same event."""
        found = self._deliveries.get(token.seq)
        return found is not None and found.token == token

    @property
    def alone(self) -> bool:
        """Whether one of them has to be handled alone."""
        return any(each.token.alone for each in self._deliveries.values())

    def add(self, delivery: Delivery) -> None:
        """Add what was claimed, to be buffered."""
        self._deliveries[delivery.token.seq] = delivery

    def remove(self, tokens: Iterable[Token]) -> None:
        """Forget deliveries; a stale token does not concern a newer claim of the same event."""
        for token in tokens:
            if token in self:
                self._working -= bool(self._deliveries.pop(token.seq).blocks)

    def all(self) -> list[Delivery]:
        """Return all deliveries."""
        return list(self._deliveries.values())

    def tokens(self) -> list[Token]:
        """Return the tokens of all deliveries."""
        return [each.token for each in self._deliveries.values()]

    def hand_out(self, token: Token) -> None:
        """Note that the consumer takes a delivery."""
        delivery = self._deliveries[token.seq]
        delivery.handed_out = True
        self.asking = False
        self._asked = self._active[delivery.scope] = time.monotonic()

    def begin(self, token: Token) -> None:
        """Note that somebody begins to work on a delivery."""
        if token in self:
            delivery = self._deliveries[token.seq]
            self._working += not delivery.blocks
            delivery.blocks += 1
            delivery.begun = self._note_activity(delivery.scope)

    def end(self, token: Token) -> None:
        """Note that somebody no longer works on a delivery."""
        if token in self and (delivery := self._deliveries[token.seq]).blocks:
            self._note_activity(delivery.scope)
            delivery.blocks -= 1
            self._working -= not delivery.blocks

    def _note_activity(self, scope: Scope) -> float:
        now = self._asked = self._active[scope] = time.monotonic()
        if self._working >= self._turns:
            self._all_turns_taken = now
        return now

    def abandoned(self) -> list[Delivery]:
        """Return what was handed out and has nobody who works on it, or somebody who never ends."""
        now = time.monotonic()
        if self._working >= self._turns:
            self._all_turns_taken = now
        scopes = {each.scope for each in self._deliveries.values()}
        self._active = {scope: at for scope, at in self._active.items() if scope in scopes}
        deliveries = [each for each in self._deliveries.values() if each.handed_out]
        return [each for each in deliveries if now - self._last_sign(each) > self._limit(each)]

    def _limit(self, delivery: Delivery) -> Seconds:
        return self._patience if delivery.blocks else self._patience * self._rounds

    def _last_sign(self, delivery: Delivery) -> float:
        if delivery.blocks:
            return delivery.begun
        return max(self._active.get(delivery.scope, 0.0), self._all_turns_taken)

    def is_stalled(self) -> bool:
        """Tell whether the consumer has stopped asking, and nothing that it took goes on."""
        return not self.asking and time.monotonic() - self._asked > self._patience
