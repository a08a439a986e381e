"""The deferred scopes of one consumer: it claims nothing of them for a moment, since it would release it again."""

import math
import time
from collections.abc import Iterable
from typing import NamedTuple

from ...core.units import Scope, Seconds
from .claim import Token

MAX_DEFERRED_SCOPES = 1_000  # a claim compares each row with all of them
CONTESTED_TIME: Seconds = 30.0  # a scope counts as contested this long after its last deferral
MAX_BUSY_DEFERRAL: Seconds = 1.0  # of a scope that another handler keeps


class Deferral(NamedTuple):
    """Until when nothing of a scope is claimed, on this process's monotonic clock."""

    until: float
    for_capacity: bool
    """Whether the reason is this process's capacity; otherwise another handler has the scope."""
    seconds: Seconds
    """Its length; a deferral that follows at once is twice as long."""


class Deferrals:
    """Keeps the deferrals of scopes, and which scopes are contested between handlers."""

    def __init__(self) -> None:
        self._deferred: dict[Scope, Deferral] = {}
        self._contested: dict[Scope, Deferral] = {}
        """The last deferral of each contested scope: another handler had it, and this one settled nothing since."""

    def add(self, scope: Scope, seconds: Seconds, *, for_capacity: bool, busy: bool) -> None:
        """Defer a scope for `seconds`.

        While another handler keeps a `busy` scope, each deferral is twice as long as the last, up to
        `MAX_BUSY_DEFERRAL`. So of two workers that compete for a scope, one handles it and the other backs off.
        """
        now = time.monotonic()
        if busy:
            seconds = self._next_contested_length(scope, seconds, now)
        _make_room(self._deferred)
        self._deferred[scope] = Deferral(now + seconds, for_capacity, seconds)

    def resume(self) -> bool:
        """End the deferrals that were made for capacity; return whether there were any."""
        resumed = [scope for scope, deferral in self._deferred.items() if deferral.for_capacity]
        for scope in resumed:
            del self._deferred[scope]
        return bool(resumed)

    def expire(self) -> None:
        """Drop the deferrals that have ended."""
        now = time.monotonic()
        self._deferred = {
            scope: deferral for scope, deferral in self._deferred.items() if deferral.until > now
        }

    def deferred(self) -> list[Scope]:
        """Return the deferred scopes."""
        return list(self._deferred)

    def contested(self) -> list[Scope]:
        """Return the contested scopes."""
        return list(self._contested)

    def settled(self, tokens: Iterable[Token]) -> None:
        """Record that this process settled deliveries finally: their scopes are no longer contested."""
        for token in tokens:
            self._contested.pop(token.scope, None)

    def soonest_end(self) -> float:
        """Return when the next deferral ends, on this process's monotonic clock; infinity if there is none."""
        return min((deferral.until for deferral in self._deferred.values()), default=math.inf)

    def _next_contested_length(self, scope: Scope, seconds: Seconds, now: float) -> Seconds:
        last = self._contested.get(scope)
        if last is not None and now - last.until < MAX_BUSY_DEFERRAL:
            seconds = min(last.seconds * 2, MAX_BUSY_DEFERRAL)
        self._contested = {
            name: deferral
            for name, deferral in self._contested.items()
            if deferral.until > now - CONTESTED_TIME
        }
        _make_room(self._contested)
        self._contested[scope] = Deferral(now + seconds, for_capacity=False, seconds=seconds)
        return seconds


def _make_room(deferrals: dict[Scope, Deferral]) -> None:
    """Drop the oldest deferral if there are `MAX_DEFERRED_SCOPES`."""
    if len(deferrals) >= MAX_DEFERRED_SCOPES:
        del deferrals[next(iter(deferrals))]
