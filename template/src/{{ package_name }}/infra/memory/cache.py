"""Keeps the contexts of scopes in memory, within limits of number and bytes."""

import math
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from uuid import NAMESPACE_OID, uuid5

import logfire

from ...config import Settings
from ...core.context import DecisionContext
from ...core.units import Scope, Seconds
from ..store import ScopeMoved, Token
from ..store.journal import NOTHING, Entries
from ..store.scopes import NO_NOTES, Pin, ScopeNotes, write_notes
from ..telemetry import counters

WAKE_PRECISION = timedelta(seconds=0.05)
"""The difference of two times that need not be stored: a trigger that waits until a time computes it anew each time."""
EVICTION_LOG_INTERVAL: Seconds = 60.0  # between warnings about evicted contexts


@dataclass
class CacheEntry:
    """A cached context, and the state of its scope when it was compared with the database."""

    context: DecisionContext
    version: int
    held: dict[int, Token]
    newer: int
    """How many held events only newer code can read; they are not in the context."""
    scratch: str
    wake_at: datetime | None
    """When its trigger is evaluated again without an event, by the database's clock; None if no trigger waits."""
    checked: float
    """When it was last compared with the database, on this process's monotonic clock."""
    last_seq: int
    """The `seq` up to which no earlier delivery was unsettled then."""
    bytes: int
    """An upper estimate of the memory that its events take."""
    pin: Pin | None = None
    """The unfinished decision that this attempt continues."""
    entries: Entries = field(default_factory=lambda: NOTHING)
    """What its earlier attempts recorded."""

    def own(self, tokens: tuple[Token, ...]) -> tuple[Token, ...]:
        """Return the tokens of the events that it decides on; others wait for a pinned decision."""
        return tokens if self.pin is None else self.pin.own(tokens)

    def change_notes(self, wait: Seconds | None) -> ScopeNotes | None:
        """Take over the context's notes and when it is evaluated again; return them if they changed.

        Raises:
            InvalidEvent: the notes cannot be stored as JSON or read back.
        """
        scratch = write_notes(self.context.scratch) if self.context.scratch else NO_NOTES
        wake_at = None if wait is None else self.context.now() + timedelta(seconds=wait)
        if scratch == self.scratch and self._is_near(wake_at):
            return None
        self.scratch, self.wake_at = scratch, wake_at
        return ScopeNotes(scratch, wait, self.version)

    def _is_near(self, wake_at: datetime | None) -> bool:
        if wake_at is None or self.wake_at is None:
            return wake_at is self.wake_at
        return abs(wake_at - self.wake_at) < WAKE_PRECISION

    def next_action_id(self, subscriber: str) -> str:
        """Return the id of the context's next action, which is the same on every retry."""
        if self.pin is not None:
            return self.pin.action_id
        events = self.context.events
        first = events[0].id if events else ""
        return _action_id(subscriber, self.context.scope, self.version, first)


class ContextCache:
    """The cached contexts by scope, the least recently used first; those of open blocks are never evicted."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._entries: OrderedDict[Scope, CacheEntry] = OrderedDict()
        self._open: set[Scope] = set()
        self._eviction_logged_at = -math.inf
        self.bytes = 0
        """The estimated bytes of memory of all cached contexts."""

    def get(self, scope: Scope) -> CacheEntry | None:
        """Return the entry of a scope; None if it has none."""
        return self._entries.get(scope)

    def entry_of(self, context: DecisionContext) -> CacheEntry:
        """Return the entry of an open context.

        Raises:
            ScopeMoved: the context was rebuilt or removed meanwhile, so its decision is out of date.
        """
        known = self._entries.get(context.scope)
        if known is None or known.context is not context:
            raise ScopeMoved(f"scope {context.scope!r}: its context is out of date")
        return known

    def replace(self, scope: Scope, entry: CacheEntry) -> None:
        """Cache a rebuilt context."""
        self.invalidate(scope)
        self._entries[scope] = entry
        self.bytes += entry.bytes

    def invalidate(self, scope: Scope) -> None:
        """Remove the scope's context, so that the next decision rebuilds it."""
        if known := self._entries.pop(scope, None):
            self.bytes -= known.bytes

    def resize(self, entry: CacheEntry, size: int) -> None:
        """Record that the events of a context take `size` bytes now, whether it is still cached or not."""
        if self._entries.get(entry.context.scope) is entry:
            self.bytes += size - entry.bytes
        entry.bytes = size

    def mark_open(self, scope: Scope) -> None:
        """Record that a decision uses the scope's context now."""
        self._entries.move_to_end(scope)
        self._open.add(scope)
        self.evict()

    def mark_closed(self, scope: Scope) -> None:
        """Record that a decision ended, so that its context may be evicted."""
        self._open.discard(scope)

    def evict(self) -> None:
        """Evict the least recently used contexts, except open ones, until the limits are met."""
        if self._fits():
            return
        before = len(self._entries)
        for scope in list(self._entries):
            if scope not in self._open:
                self.invalidate(scope)
            if self._fits():
                break
        evicted = before - len(self._entries)
        counters.evicted.add(evicted)
        if evicted and before <= self._settings.context_max_scopes:
            self._log_eviction(evicted)

    def _fits(self) -> bool:
        few_scopes = len(self._entries) <= self._settings.context_max_scopes
        return few_scopes and self.bytes <= self._settings.context_cache_bytes

    def _log_eviction(self, evicted: int) -> None:
        """Log at most once in `EVICTION_LOG_INTERVAL` that contexts were evicted and must be read again."""
        if (now := time.monotonic()) > self._eviction_logged_at + EVICTION_LOG_INTERVAL:
            self._eviction_logged_at = now
            logfire.warn(
                "Evicted the contexts of {count} scopes: all together reach CONTEXT_CACHE_BYTES ({most})",
                count=evicted,
                most=self._settings.context_cache_bytes,
            )


@lru_cache(maxsize=1_000)
def _action_id(subscriber: str, scope: Scope, version: int, first: str) -> str:
    return str(uuid5(NAMESPACE_OID, f"{subscriber}/{scope}/{version}/{first}"))
