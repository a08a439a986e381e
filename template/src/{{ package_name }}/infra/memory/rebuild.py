"""Rebuilds the context of a scope from what the store keeps of it."""

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from pydantic import JsonValue

from ...core.context import DecisionContext
from ...core.events import Event
from ...core.units import Scope
from ..database import to_json
from ..store import EventStore
from ..store.scopes import HeldDeliveries, PendingDecision, Pin
from .cache import CacheEntry
from .limits import KEPT_SHARE, TOO_MANY_BYTES
from .trimming import total_weight


class Restore(Protocol):
    """Builds a context from what the store keeps of its scope, as `DecisionContext.restore` does."""

    def __call__(
        self,
        *,
        scope: Scope,
        events: list[Event],
        recent: list[Event],
        scratch: dict[str, JsonValue],
        last_action_at: datetime | None,
        clock: Callable[[], datetime],
    ) -> DecisionContext: ...


class Rebuilder:
    """Rebuilds contexts, each within `CONTEXT_MAX_BYTES`."""

    def __init__(self, store: EventStore, restore: Restore) -> None:
        self._store = store
        self._settings = store.settings
        self._restore = restore

    async def rebuild(self, pending: PendingDecision, now: float) -> CacheEntry:
        """Return the rebuilt context of a scope, read at `now` on this process's monotonic clock.

        Raises:
            EarlierEventPending: an earlier event of the scope comes first.
            DecisionPending: an unfinished decision of the scope comes first.
            ScopeMoved: another worker claimed one of the events to decide on.
        """
        scopes, scope = self._store.scopes, pending.scope
        recent, max_bytes = self._settings.context_recent, self._settings.context_max_bytes
        held = await scopes.read_held(pending, max_bytes)
        if held.excess:
            excess = [HeldDeliveries(scope, held.excess)]
            await scopes.drop(excess, TOO_MANY_BYTES.format(max_bytes))
            held = await scopes.read_held(pending, max_bytes)
        left = int(max_bytes * KEPT_SHARE) - held.weight
        state, pin = held.state, held.state.pin
        if pin is not None:  # its clock stands still: it looks as far back as on its first attempt
            recent += max((self._store.now() - pin.begun_at).total_seconds(), 0.0)
        acted_on = await scopes.read_covered(scope, recent, left)
        context = self._restore(
            scope=scope,
            events=held.events,
            recent=[*held.events, *acted_on],
            scratch=state.scratch,
            last_action_at=state.last_action_at,
            clock=self._store.now,
        )
        context.limit_prompt(self._settings.prompt_max_bytes)
        scratch = to_json(state.scratch)
        weight = held.weight + total_weight(acted_on)
        kept = (held.tokens, held.newer, scratch, state.wake_at)
        entry = CacheEntry(context, state.version, *kept, now, pending.last, weight)
        return entry if pin is None else await self._continue(entry, pin)

    async def _continue(self, entry: CacheEntry, pin: Pin) -> CacheEntry:
        """Let a context see what the first attempt at its decision saw, and take over what that recorded."""
        context = entry.context
        context.events = [event for event in context.events if event.seq in pin.seqs]
        context.stop_clock(pin.begun_at)
        context.see_only(pin.seqs)
        entry.held = {seq: token for seq, token in entry.held.items() if seq in pin.seqs}
        entry.pin, entry.entries = pin, await self._store.journal.entries(pin.action_id)
        return entry
