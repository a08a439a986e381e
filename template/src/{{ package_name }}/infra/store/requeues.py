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
        last = self._by_scope.get(token.scope, LastRequeue(0.0, 0))
        self._by_scope[token.scope] = LastRequeue(now, max(last.seq, token.seq))
        self._by_scope.move_to_end(token.scope)
        if len(self._by_scope) > MAX_TRACKED_SCOPES:
            _, oldest = self._by_scope.popitem(last=False)
            self._all_at = max(self._all_at, oldest.at)

    def note_all(self, lease: Seconds) -> None:
        """Record that the answer to a claim was lost: its deliveries go back when their leases expire."""
        self._all_at = time.monotonic() + lease

    def last(self, scope: Scope) -> LastRequeue:
        """Return the last requeue of a scope, which may lie in the future after `note_all`."""
        last = self._by_scope.get(scope, LastRequeue(0.0, 0))
        return last._replace(at=max(last.at, self._all_at))
