"""Working memories: one context for each scope, under its lock, stored as the deliveries that it holds.

A context is a cache. Before a decision, the version of its scope is read, unless that was done a moment ago. If
another worker changed the scope, the context is rebuilt. All effects of a decision are one transaction, so after
a crash before its commit the decision is only taken again.
"""

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Self

from ...core.context import DecisionContext
from ...core.events import ActionEvent
from ...core.units import Scope
from ..locks import ScopedLocks
from ..store import EarlierEventPending, EventStore, Token
from ..store.scopes import NO_NOTES, PendingDecision, refuse_unanswerable, write_notes
from ..store.scopes import OnAction as OnAction
from ..telemetry.spans import step
from ..telemetry.tracing import current_decision, note
from ..text import jsonable, storable
from .cache import CacheEntry, ContextCache
from .commits import BackgroundCommits
from .deadlines import Deadlines
from .failures import BUSY_DELAY as BUSY_DELAY  # some loops ask for it here
from .failures import Settling, handling
from .limits import ScopeLimits
from .outages import OutageDeferrals
from .rebuild import Rebuilder, Restore
from .trimming import newest_events, total_weight


class Memory:
    """Opens contexts of one subscriber, and commits the decisions on them."""

    def __init__(
        self,
        store: EventStore,
        locks: ScopedLocks,
        restore: Restore = DecisionContext.restore,
        on_action: OnAction | None = None,
    ) -> None:
        self._store = store
        self._locks = locks
        self._on_action = on_action
        self._settings = store.settings
        self._outages = OutageDeferrals(store)
        self._deadlines = Deadlines(store.settings.event_handler_timeout)
        self._cache = ContextCache(store.settings)
        self._commits = BackgroundCommits(store, self._cache.invalidate)
        self._limits = ScopeLimits(store, self._cache, self._commits)
        self._rebuilder = Rebuilder(store, restore)

    def __class_getitem__(cls, _: object) -> type[Self]:
        """Accept `Memory[...]` of older loops, where the context's class was a parameter."""
        return cls

    @property
    def cached_bytes(self) -> int:
        """The estimated bytes of memory that the events of all cached contexts take."""
        return self._cache.bytes

    def settling(self, *tokens: Token) -> Settling:
        """Settle these deliveries if the block fails.

        If the scope is busy or was changed, they are released without spending an attempt. `Unavailable` also
        defers their scope until the dependency may be available. Any other error spends an attempt, is logged with
        its traceback, and the events are retried after a backoff.
        """
        return Settling(self._store, tokens, self._outages)

    @asynccontextmanager
    async def open(self, scope: Scope) -> AsyncGenerator[DecisionContext]:
        """Provide the scope's context, under its lock and within the time limit of a decision.

        With locks across processes, the context is as current as the database. Otherwise changes by other
        processes may be missing for `CONTEXT_TRUSTED` seconds. If the block fails, the context is rebuilt.

        Raises:
            ScopeBusy: another handler has the scope.
            EarlierEventPending: an earlier event of the scope comes first.
            ScopeMoved: another worker claimed one of the events to decide on.
            TimeoutError: the decision exceeded its time limit.
            DatabaseUnavailable: it did so while it waited for the database or a connection.
        """
        async with self._locks.acquire(scope, wait=False):
            deadline = self._deadlines.start()
            try:
                async with deadline:
                    context = await self.load(scope)
                    if decision := current_decision():
                        decision.filter_starts()
                    yield context
            except BaseException as error:
                self.invalidate(scope)
                self._deadlines.check(deadline, error)
                raise
            finally:
                self._deadlines.end(deadline)
                self._cache.mark_closed(scope)

    async def load(self, scope: Scope) -> DecisionContext:
        """Return the scope's context: the cached one if it is current, or a rebuilt one.

        The caller must have the scope's lock.

        Raises:
            EarlierEventPending: an earlier event of the scope comes first.
            ScopeMoved: another worker claimed one of the events to decide on.
        """
        tokens = [token for token in handling() if token.scope == scope]
        if tokens != sorted(tokens):  # an earlier one was claimed again after later ones
            raise EarlierEventPending(scope, 0.0)
        known = self._cache.get(scope)
        if known is None or time.monotonic() >= self._trusted_until(known):
            pending = PendingDecision(scope, tokens, self._settings.event_order == "strict")
            known = await self._validate(pending, known)
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
            if (
                same and self._cache.get(pending.scope) is known
            ):  # it may have been evicted meanwhile
                known.checked, known.last_seq = now, pending.last
                return known
        rebuilt = await self._rebuilder.rebuild(pending, now)
        self._cache.replace(pending.scope, rebuilt)
        return rebuilt

    def invalidate(self, scope: Scope) -> None:
        """Remove the scope's context from the cache, so that the next decision rebuilds it."""
        self._cache.invalidate(scope)

    def action_id(self, context: DecisionContext) -> str:
        """Return the id of this context's next action, which is the same on every retry.

        Call it right before the trigger: the trigger's span starts here.

        Raises:
            ScopeMoved: the context was rebuilt or removed meanwhile.
        """
        if decision := current_decision():
            decision.trigger_starts()
        return self._next_id(context)

    def _next_id(self, context: DecisionContext) -> str:
        return self._cache.entry_of(context).next_action_id(self._store.subscriber)

    async def hold(self, context: DecisionContext, *tokens: Token) -> None:
        """Hold events in the context's scope, with its notes, until the next action.

        The next decision does not wait for the commit, which many holds share. Until then the events stay
        leased, so they are claimed again after a crash. If the commit fails, the context is rebuilt without them.

        Raises:
            InvalidEvent: an event has reached EVENT_MAX_DEPTH, so no action may follow it.
            ScopeMoved: the context was rebuilt or removed meanwhile.
        """
        known, weight = self._cache.entry_of(context), 0
        for event in newest_events(context.events, tokens):
            refuse_unanswerable(event, self._settings.event_max_depth)
            weight += event.stored_weight
        note(outcome="held", size=len(context.events))
        scratch = write_notes(context.scratch) if context.scratch else NO_NOTES
        changed = scratch if scratch != known.scratch else None
        known.scratch = scratch
        known.held.update({token.seq: token for token in tokens})
        done = self._commits.track(context.scope, tokens)
        self._store.scopes.hold(context.scope, tokens, changed, done, known.version)
        if self._locks.across_processes:
            # The next owner of the lock reads the database.
            await self._commits.wait(context.scope)
        self._limits.add(known, weight)

    def skip(self, *tokens: Token) -> None:
        """Ack events that the filter refused, in the background."""
        note(outcome="filtered out")
        scope = tokens[0].scope if tokens else ""
        self._store.queue.settler.ack_in_background(tokens, self._commits.track(scope, tokens))

    async def flush(self) -> None:
        """Wait until all holds and skips so far are committed."""
        await self._commits.wait_for_all()

    async def act(
        self, context: DecisionContext, *tokens: Token, trigger: str, output: object
    ) -> ActionEvent:
        """Act on all events of the context, exactly once in the database, and clear it.

        One transaction increases the scope's version, acks these deliveries and those of the context's events,
        publishes the action and runs `on_action`.

        Raises:
            ScopeMoved: another worker changed the scope meanwhile; nothing was written.
            ScopeBusy: the scope's lock was lost, and another worker has it; nothing was written.
        """
        known, size = self._cache.entry_of(context), len(context.events)
        weight = total_weight(newest_events(context.events, tokens))
        if decision := current_decision():
            decision.trigger_ends(trigger)
        await self._commits.wait(context.scope)
        await self._locks.confirm(context.scope)
        action = self._action(context, trigger, output)
        seen = {event.seq for event in context.events}
        held = [token for token in known.held.values() if token.seq in seen]
        if len(held) < len(
            known.held
        ):  # the trigger removed events from the context: they stay held
            self.invalidate(context.scope)
        with step("store.act", action_id=action.id, covers=len(held) + len(tokens)):
            await self._store.scopes.act(action, known.version, held, tokens, self._on_action)
        note(outcome="acted", size=size, action_id=action.id)
        context.clear()
        context.forget(self._settings.context_recent)
        known.version += 1
        known.held, known.scratch = {}, NO_NOTES
        self._limits.add(known, weight)
        return action

    def _action(self, context: DecisionContext, trigger: str, output: object) -> ActionEvent:
        return ActionEvent(
            id=self._next_id(context),
            source=f"agent:{self._store.subscriber}",
            scope=context.scope,
            trigger=storable(trigger),
            output=jsonable(output),
            covers=[event.id for event in context.events],
            meta=max((event.caused() for event in context.events), key=lambda meta: meta.depth),
        )
