"""Records when a delivery of each scope last went back to the queue: released, nacked, or its lease lost.

A process that alone handles a scope gets its deliveries in order, and so need not check the order in the
database before each decision. Only a delivery that went back can be claimed again after a later one.
"""

import time
from collections import OrderedDict
from typing import NamedTuple

from ...core.units import Scope, Seconds
from .claim import Token

MAX_TRACKED_SCOPES = 10_000


class LastRequeue(NamedTuple):
    """When a delivery last went back, on this process's monotonic clock, and the highest `seq` that did."""

    at: float
    seq: int


NEVER = LastRequeue(0.0, 0)


class Requeues:
    """Keeps the last requeue of each scope."""

    def __init__(self) -> None:
        self._by_scope: OrderedDict[Scope, LastRequeue] = OrderedDict()
        self._all_at = 0.0
        """When a delivery of any scope may have gone back."""

    def note(self, token: Token) -> None:
        """Record that a delivery goes back; a token without a scope counts for all scopes."""
        now = time.monotonic()
        if not token.scope:
            self._all_at = max(self._all_at, now)
            return
        last = self._by_scope.get(token.scope, NEVER)
        self._by_scope[token.scope] = LastRequeue(now, max(last.seq, token.seq))
        self._by_scope.move_to_end(token.scope)
        if len(self._by_scope) > MAX_TRACKED_SCOPES:
            _, oldest = self._by_scope.popitem(last=False)
            self._all_at = max(self._all_at, oldest.at)

    def note_all(self, lease: Seconds) -> None:
        """Record that the answer to a claim was lost: its deliveries go back when their leases expire."""
        self._all_at = time.monotonic() + lease

    def none_since(self, scope: Scope, checked: float, seq: int) -> bool:
        """Return whether no delivery of a scope went back after `checked`, nor one after `seq` before that.

        After `note_all`, deliveries of all scopes may go back until some time in the future.
        """
        last = self._by_scope.get(scope, NEVER)
        return checked > last.at and checked > self._all_at and seq >= last.seq
