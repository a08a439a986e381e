"""Keeps each scope within its limits: the oldest held events are dropped, and the oldest actions forgotten."""

import asyncio

from ...core.units import Scope
from ..store import EventStore, Token
from ..store.scopes import CommitCallback, HeldDeliveries
from .cache import CacheEntry, ContextCache
from .commits import BackgroundCommits
from .trimming import excess_by_bytes, excess_by_count, total_weight

KEPT_SHARE = 0.75  # of a scope's limit that is kept once the scope exceeds it
TOO_MANY_EVENTS = "the scope held more than CONTEXT_MAX_EVENTS ({}): these were the oldest"
TOO_MANY_BYTES = "the scope held more than CONTEXT_MAX_BYTES ({}): these were the oldest"


class ScopeLimits:
    """The limits of each scope's events by number and bytes."""

    def __init__(self, store: EventStore, cache: ContextCache, commits: BackgroundCommits) -> None:
        self._store = store
        self._settings = store.settings
        self._cache = cache
        self._commits = commits

    def add(self, known: CacheEntry, weight: int) -> None:
        """Record new events of `weight` bytes, and then enforce the limits of the scope and of the cache."""
        self._cache.resize(known, known.bytes + weight)
        most = self._settings.context_max_events
        if len(known.held) > most:
            excess = excess_by_count(known.held, int(most * KEPT_SHARE))
            self._drop(known, excess, TOO_MANY_EVENTS.format(most))
        if known.bytes > self._settings.context_max_bytes:
            self._limit_bytes(known)
        self._cache.evict()

    def _limit_bytes(self, known: CacheEntry) -> None:
        """Drop the oldest held events beyond the limit, and forget the oldest that were acted on."""
        context, max_bytes = known.context, self._settings.context_max_bytes
        held = total_weight(context.events)
        if held > max_bytes:
            excess = excess_by_bytes(context.events, known.held, int(max_bytes * KEPT_SHARE))
            self._drop(known, excess, TOO_MANY_BYTES.format(max_bytes))
            held = total_weight(context.events)
        recent = context.limit_recent(int(max_bytes * KEPT_SHARE) - held)
        self._cache.resize(known, held + recent)

    def _drop(self, known: CacheEntry, excess: list[int], reason: str) -> None:
        """Drop the oldest events in the background, many at once, since each drop takes a commit."""
        if not excess:
            return
        dropped = {seq: known.held.pop(seq) for seq in excess}
        known.context.drop(set(dropped))
        known.version += 1
        scope, tokens = known.context.scope, tuple(dropped.values())
        done = self._commits.track(scope, tokens)
        dropping = self._commit_drop(scope, tokens, known.version, reason, done)
        self._store.queue.background.start(dropping, "dropping the excess events of a scope")

    async def _commit_drop(
        self,
        scope: Scope,
        tokens: tuple[Token, ...],
        version: int,
        reason: str,
        done: CommitCallback,
    ) -> None:
        try:
            held = [HeldDeliveries(scope, tokens)]
            dropped, versions = await self._store.scopes.drop(held, reason)
        except Exception as error:
            done(error)
        except asyncio.CancelledError:
            done(InterruptedError("the drop was cancelled"))
            raise
        else:
            done((dropped, versions[scope]) == (len(tokens), version))
