"""Loads the context of a scope for a decision: the cached one if it is current, or a rebuilt one."""

import time

from ...core.context import DecisionContext
from ...core.units import Scope
from ..locks import ScopedLocks
from ..store import EarlierEventPending, EventStore
from ..store.scopes import PendingDecision
from .cache import CacheEntry, ContextCache
from .commits import BackgroundCommits
from .failures import handling, leave_out
from .rebuild import Rebuilder, Restore


class ContextLoader:
    """Loads the contexts of one subscriber."""

    def __init__(
        self,
        store: EventStore,
        locks: ScopedLocks,
        cache: ContextCache,
        commits: BackgroundCommits,
        restore: Restore,
    ) -> None:
        self._store = store
        self._locks = locks
        self._settings = store.settings
        self._cache = cache
        self._commits = commits
        self._rebuilder = Rebuilder(store, restore)

    async def load(self, scope: Scope) -> DecisionContext:
        """Return the scope's context; the caller must have the scope's lock.

        Raises:
            EarlierEventPending: an earlier event of the scope comes first.
            DecisionPending: an unfinished decision of the scope comes first.
            ScopeMoved: another worker claimed one of the events to decide on.
        """
        tokens = [token for token in handling() if token.scope == scope]
        if tokens != sorted(tokens):  # an earlier one was claimed again after later ones
            raise EarlierEventPending(scope, 0.0)
        known = self._cache.get(scope)
        if known is None or time.monotonic() >= self._trusted_until(known):
            pending = PendingDecision(scope, tokens, self._settings.event_order == "strict")
            known = await self._validate(pending, known)
            if known.pin is not None:
                leave_out(known.pin.others(tokens))
        self._cache.mark_open(scope)
        return known.context

    def _trusted_until(self, known: CacheEntry) -> float:
        """Return until when a context need not be compared with the database.

        In one process, the deliveries of a scope arrive in order until one goes back to the queue. They do so
        again once a decision on a later one was checked.
        """
        requeues = self._store.queue.requeues
        in_order = requeues.none_since(known.context.scope, known.checked, known.last_seq)
        if self._locks.across_processes or not in_order:
            return 0.0
        return known.checked + self._settings.context_trusted

    async def _validate(self, pending: PendingDecision, known: CacheEntry | None) -> CacheEntry:
        """Return the entry of a scope: the cached one if the database has the same state, or a rebuilt one."""
        await self._commits.wait(pending.scope)
        now = time.monotonic()
        if known is not None:
            state = await self._store.scopes.read_state(pending)
            same = (known.version, len(known.held) + known.newer) == (state.version, state.held)
            # It may have been evicted meanwhile.
            if same and state.pin is None and self._cache.get(pending.scope) is known:
                known.checked, known.last_seq, known.wake_at = now, pending.last, state.wake_at
                return known
        rebuilt = await self._rebuilder.rebuild(pending, now)
        self._cache.replace(pending.scope, rebuilt)
        return rebuilt
