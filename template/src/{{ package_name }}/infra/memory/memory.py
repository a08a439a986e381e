"""Working memories: one context for each scope, under its lock, stored as the deliveries that it holds.

A context is a cache. Before a decision, the version of its scope is read, unless that was done a moment ago. If
another worker changed the scope, the context is rebuilt. All effects of a decision are one transaction, so after
a crash before its commit the decision is only taken again.
"""

import asyncio
import math
import random
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from types import TracebackType
from typing import TYPE_CHECKING
from uuid import NAMESPACE_OID, uuid5

import logfire

from ...core.events import ActionEvent
from ...core.units import Scope, Seconds
from ..contexts import Context, Restore, limit_prompt, limit_recent
from ..database import DatabaseUnavailable, Fetch, fetch_in, to_json, was_database_wait
from ..locks import ScopedLocks
from ..store import EarlierEventPending, EventStore, ScopeMoved, Token, counters, hold
from ..store.act import NO_NOTES, act
from ..store.drop import HeldDeliveries
from ..store.hold import PendingDecision
from ..store.settle import CommitCallback, HoldRequest
from ..telemetry.spans import step
from ..telemetry.tracing import current_decision, note
from ..text import jsonable, storable
from .deadlines import Deadlines
from .failures import BUSY_DELAY as BUSY_DELAY  # some loops ask for it here
from .failures import Settling, handling
from .outages import OutageDeferrals
from .trimming import excess_by_bytes, excess_by_count, newest_events, total_weight

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

KEPT_SHARE = 0.75  # of a scope's limit that is kept once the scope exceeds it
TOO_MANY_EVENTS = "the scope held more than CONTEXT_MAX_EVENTS ({}): these were the oldest"
TOO_MANY_BYTES = "the scope held more than CONTEXT_MAX_BYTES ({}): these were the oldest"
EVICTION_LOG_INTERVAL: Seconds = 60.0  # between warnings about evicted contexts
RETRYABLE_STATES = frozenset(
    {"40001", "40P01"}
)  # serialization failure and deadlock: a retry may succeed
MAX_TRANSACTION_TRIES = 5  # of an action, before its decision fails
CONFLICT_PAUSE: Seconds = 0.05

type OnAction = Callable[[AsyncSession, ActionEvent], Awaitable[None]]
"""Runs the database effects of an action, in the transaction that settles its events."""


@dataclass
class _CacheEntry[C]:
    """A cached context, and the state of its scope when it was compared with the database."""

    context: C
    version: int
    held: dict[int, Token]
    newer: int
    """How many held events only newer code can read; they are not in the context."""
    scratch: str
    checked: float
    """When it was last compared with the database, on this process's monotonic clock."""
    last_seq: int
    """The `seq` up to which no earlier delivery was unsettled then."""
    bytes: int
    """An upper estimate of the memory that its events take."""


@dataclass
class _PendingCommits:
    """The background commits of a scope that are under way."""

    commits: int = 0
    done: asyncio.Event = field(default_factory=asyncio.Event)


class ContextBlock[C: Context]:
    """The block of `Memory.open`: a class, since a generator would take longer than most decisions."""

    def __init__(
        self,
        memory: "Memory[C]",
        scope: Scope,
        turn: AbstractAsyncContextManager[None],
        deadlines: Deadlines,
    ) -> None:
        self._memory = memory
        self._scope = scope
        self._turn = turn
        self._deadlines = deadlines

    async def __aenter__(self) -> C:
        """Acquire the lock and load the context."""
        await self._turn.__aenter__()
        self._deadline = self._deadlines.start()
        await self._deadline.__aenter__()
        try:
            context = await self._memory.load(self._scope)
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        if decision := current_decision():
            decision.filter_starts()
        return context

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Release the lock.

        Raises:
            TimeoutError: the decision exceeded its time limit.
            DatabaseUnavailable: it did so while it waited for the database.
        """
        try:
            await self._deadline.__aexit__(kind, error, trace)
        except TimeoutError as timeout:
            limit = self._deadlines.limit
            message = f"the decision took longer than {limit:g} s"
            if was_database_wait(timeout.__cause__):
                raise DatabaseUnavailable(f"{message}, and waited for it at the end") from timeout
            raise TimeoutError(message) from timeout
        finally:
            self._deadlines.end(self._deadline)
            self._memory.mark_closed(self._scope)
            if error is not None:
                self._memory.invalidate(self._scope)
            await self._turn.__aexit__(kind, error, trace)


class Memory[C: Context]:
    """Opens contexts of one subscriber, and commits the decisions on them."""

    def __init__(
        self,
        store: EventStore,
        locks: ScopedLocks,
        restore: Restore[C],
        on_action: OnAction | None = None,
    ) -> None:
        self._store = store
        self._locks = locks
        self._restore = restore
        self._on_action = on_action
        self._settings = store.settings
        self._outages = OutageDeferrals(store)
        self._deadlines = Deadlines(store.settings.event_handler_timeout)
        self._cache: OrderedDict[Scope, _CacheEntry[C]] = OrderedDict()
        self._bytes = 0
        """The estimated bytes of memory of all cached contexts."""
        self._open: set[Scope] = set()
        self._eviction_logged_at = -math.inf
        self._pending_commits: dict[Scope, _PendingCommits] = {}

    @property
    def cached_bytes(self) -> int:
        """The estimated bytes of memory that the events of all cached contexts take."""
        return self._bytes

    def settling(self, *tokens: Token) -> Settling:
        """Settle these deliveries if the block fails.

        If the scope is busy or was changed, they are released without spending an attempt. `Unavailable` also
        defers their scope until the dependency may be available. Any other error spends an attempt, is logged with
        its traceback, and the events are retried after a backoff.
        """
        return Settling(self._store, tokens, self._outages)

    def open(self, scope: Scope) -> "ContextBlock[C]":
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
        turn = self._locks.acquire(scope, wait=False)
        return ContextBlock(self, scope, turn, self._deadlines)

    async def load(self, scope: Scope) -> C:
        """Return the scope's context: the cached one if it is current, or a rebuilt one.

        The caller must have the scope's lock.

        Raises:
            EarlierEventPending: an earlier event of the scope comes first.
            ScopeMoved: another worker claimed one of the events to decide on.
        """
        pending = self._pending_decision(scope)
        if list(pending.tokens) != sorted(
            pending.tokens
        ):  # an earlier one was claimed again after later ones
            raise EarlierEventPending(scope, 0.0)
        known = self._cache.get(scope)
        if known is None or time.monotonic() >= self._trusted_until(known):
            validated = await self._validate(pending, known)
            if validated is not known:
                self.invalidate(scope)
                self._cache[scope] = validated
                self._bytes += validated.bytes
            known = validated
        self._cache.move_to_end(scope)
        self._open.add(scope)
        self._evict()
        return known.context

    def _evict(self) -> None:
        """Evict the least recently used contexts, except open ones, until the limits are met."""
        if self._fits():
            return
        before = len(self._cache)
        for scope in list(self._cache):
            if scope not in self._open:
                self.invalidate(scope)
            if self._fits():
                break
        evicted = before - len(self._cache)
        counters.evicted.add(evicted)
        if evicted and before <= self._settings.context_max_scopes:
            self._log_eviction(evicted)

    def _fits(self) -> bool:
        few_scopes = len(self._cache) <= self._settings.context_max_scopes
        return few_scopes and self._bytes <= self._settings.context_cache_bytes

    def mark_closed(self, scope: Scope) -> None:
        """Record that a decision ended, so that its context may be evicted."""
        self._open.discard(scope)

    def _trusted_until(self, known: _CacheEntry[C]) -> float:
        """Return until when a context need not be compared with the database.

        In one process, the deliveries of a scope arrive in order until one goes back to the queue. They do so
        again once a decision on a later one was checked.
        """
        requeue = self._store.requeues.last(known.context.scope)
        in_order = known.checked > requeue.at and known.last_seq >= requeue.seq
        if self._locks.across_processes or not in_order:
            return 0.0
        return known.checked + self._settings.context_trusted

    def invalidate(self, scope: Scope) -> None:
        """Remove the scope's context from the cache, so that the next decision rebuilds it."""
        if known := self._cache.pop(scope, None):
            self._bytes -= known.bytes

    def action_id(self, context: C) -> str:
        """Return the id of this context's next action, which is the same on every retry.

        Call it right before the trigger: the trigger's span starts here.

        Raises:
            ScopeMoved: the context was rebuilt or removed meanwhile.
        """
        if decision := current_decision():
            decision.trigger_starts()
        return self._next_id(context)

    def _next_id(self, context: C) -> str:
        first = context.events[0].id if context.events else ""
        version = self._entry_of(context).version
        return _action_id(self._store.subscriber, context.scope, version, first)

    async def hold(self, context: C, *tokens: Token) -> None:
        """Hold events in the context's scope, with its notes, until the next action.

        The next decision does not wait for the commit, which many holds share. Until then the events stay
        leased, so they are claimed again after a crash. If the commit fails, the context is rebuilt without them.

        Raises:
            InvalidEvent: an event has reached EVENT_MAX_DEPTH, so no action may follow it.
            ScopeMoved: the context was rebuilt or removed meanwhile.
        """
        known = self._entry_of(context)
        weight = self._weigh_holdable(context, tokens)
        note(outcome="held", size=len(context.events))
        scratch = hold.write_notes(context.scratch) if context.scratch else NO_NOTES
        changed = scratch if scratch != known.scratch else None
        known.scratch = scratch
        known.held.update({token.seq: token for token in tokens})
        done = self._track_commit(context.scope, tokens)
        self._store.settler.hold(HoldRequest(context.scope, tokens, changed), done)
        if self._locks.across_processes:
            # The next owner of the lock reads the database.
            await self._wait_for_commits(context.scope)
        self._count(context, known, weight)

    def _weigh_holdable(self, context: C, tokens: tuple[Token, ...]) -> int:
        """Return the estimated bytes of events to hold.

        Raises:
            InvalidEvent: no action may follow one of them.
        """
        weight = 0
        for event in newest_events(context.events, tokens):
            hold.refuse_unanswerable(event, self._store.limits.depth)
            weight += event.stored_weight
        return weight

    def _count(self, context: C, known: _CacheEntry[C], weight: int) -> None:
        """Add bytes to a context, and then enforce the limits of its scope and of the cache."""
        known.bytes += weight
        self._bytes += weight
        settings = self._settings
        if len(known.held) > settings.context_max_events:
            excess = excess_by_count(known.held, int(settings.context_max_events * KEPT_SHARE))
            self._drop_excess(
                context, known, excess, TOO_MANY_EVENTS.format(settings.context_max_events)
            )
        if known.bytes > settings.context_max_bytes:
            self._limit_bytes(context, known)
        self._evict()

    def _limit_bytes(self, context: C, known: _CacheEntry[C]) -> None:
        """Drop the oldest held events beyond the limit, and forget the oldest that were acted on."""
        max_bytes = self._settings.context_max_bytes
        held = total_weight(context.events)
        if held > max_bytes:
            excess = excess_by_bytes(context.events, known.held, int(max_bytes * KEPT_SHARE))
            self._drop_excess(context, known, excess, TOO_MANY_BYTES.format(max_bytes))
            held = total_weight(context.events)
        recent = limit_recent(context, int(max_bytes * KEPT_SHARE) - held)
        self._bytes += held + recent - known.bytes
        known.bytes = held + recent

    def skip(self, *tokens: Token) -> None:
        """Ack events that the filter refused, in the background."""
        note(outcome="filtered out")
        scope = tokens[0].scope if tokens else ""
        self._store.settler.ack_in_background(tokens, self._track_commit(scope, tokens))

    async def flush(self) -> None:
        """Wait until all holds and skips so far are committed."""
        for scope in list(self._pending_commits):
            await self._wait_for_commits(scope)

    def _track_commit(self, scope: Scope, tokens: tuple[Token, ...]) -> CommitCallback:
        """Return the callback for a background commit."""
        saving = self._pending_commits.get(scope)
        if saving is None:
            saving = self._pending_commits[scope] = _PendingCommits()
        saving.commits += 1
        return partial(self._on_commit, scope, tokens)

    def _on_commit(self, scope: Scope, tokens: tuple[Token, ...], result: bool | Exception) -> None:
        saving = self._pending_commits[scope]
        saving.commits -= 1
        if not saving.commits:
            del self._pending_commits[scope]
            saving.done.set()
        if isinstance(result, DatabaseUnavailable):
            logfire.warn("Waiting for the database: {error}", error=str(result))
            self._store.background.start(
                self._store.release_when_available(*tokens), "waiting for the database"
            )
        elif isinstance(result, Exception):
            # Their leases are no longer renewed: they expire, and the events are claimed again.
            self._store.settled(*tokens)
            logfire.warn("Events were not settled: {error}", error=repr(result))
        if result is not True:
            for token in tokens:
                self._store.requeues.note(token)
            self.invalidate(scope)

    async def _wait_for_commits(self, scope: Scope) -> None:
        """Wait for the background commits of a scope."""
        while saving := self._pending_commits.get(scope):
            await saving.done.wait()

    async def act(self, context: C, *tokens: Token, trigger: str, output: object) -> ActionEvent:
        """Act on all events of the context, exactly once in the database, and clear it.

        One transaction increases the scope's version, acks these deliveries and those of the context's events,
        publishes the action and runs `on_action`.

        Raises:
            ScopeMoved: another worker changed the scope meanwhile; nothing was written.
            ScopeBusy: the scope's lock was lost, and another worker has it; nothing was written.
        """
        known = self._entry_of(context)
        size = len(context.events)
        weight = total_weight(newest_events(context.events, tokens))
        if decision := current_decision():
            decision.trigger_ends(trigger)
        await self._wait_for_commits(context.scope)
        await self._locks.confirm(context.scope)
        action = self._action(context, trigger, output)
        seen = {event.seq for event in context.events}
        covered = [*(token for token in known.held.values() if token.seq in seen), *tokens]
        if len(covered) < len(known.held) + len(tokens):
            # The trigger removed events from the context: they stay held.
            self.invalidate(context.scope)
        with step("store.act", action_id=action.id, covers=len(covered)):
            await self._commit(action, known, covered)
        note(outcome="acted", size=size, action_id=action.id)
        counters.handled.add(len(covered))
        counters.published.add(1)
        self._store.settled(*tokens, final=True)
        self._store.announce()
        context.clear()
        context.forget(self._settings.context_recent)
        known.version += 1
        known.held, known.scratch = {}, NO_NOTES
        self._count(context, known, weight)
        return action

    async def _commit(
        self, action: ActionEvent, known: _CacheEntry[C], covered: list[Token]
    ) -> None:
        """Commit an action; retry it after a conflict with another transaction, which does not count as a failure."""
        for left in reversed(range(MAX_TRANSACTION_TRIES)):
            try:
                return await self._transact(action, known, covered)
            except Exception as error:
                reason = getattr(error, "orig", error)  # SQLAlchemy wraps it
                if not left or getattr(reason, "sqlstate", None) not in RETRYABLE_STATES:
                    raise
                logfire.warn("An action is committed again: {reason}", reason=str(reason))
                await asyncio.sleep(CONFLICT_PAUSE * random.uniform(0.5, 1.5))  # noqa: S311 - only jitter

    async def _transact(
        self, action: ActionEvent, known: _CacheEntry[C], covered: list[Token]
    ) -> None:
        if self._on_action is None:  # opening a session would take longer than the statement
            return await self._write(self._store.long_fetch, action, known, covered)
        async with self._store.sessions.begin() as session:
            await self._write(fetch_in(session), action, known, covered)
            async with self._store.interruptible(session):
                await self._on_action(session, action)

    async def _write(
        self, fetch: Fetch, action: ActionEvent, known: _CacheEntry[C], covered: list[Token]
    ) -> None:
        limits = self._store.limits.for_covering(action.covers)
        subscriber, version = self._store.subscriber, known.version
        acted = await act(fetch, subscriber, action, version, covered, limits)
        if len(acted) != len(covered):
            self._store.note_stale([token for token in covered if token.seq not in acted])
            raise ScopeMoved("some of the events were settled by another worker")

    def _action(self, context: C, trigger: str, output: object) -> ActionEvent:
        return ActionEvent(
            id=self._next_id(context),
            source=f"agent:{self._store.subscriber}",
            scope=context.scope,
            trigger=storable(trigger),
            output=jsonable(output),
            covers=[event.id for event in context.events],
            meta=max((event.caused() for event in context.events), key=lambda meta: meta.depth),
        )

    def _entry_of(self, context: C) -> _CacheEntry[C]:
        """Return the cache entry of an open context.

        Raises:
            ScopeMoved: the context was rebuilt or removed meanwhile, so its decision is out of date.
        """
        known = self._cache.get(context.scope)
        if known is None or known.context is not context:
            raise ScopeMoved(f"scope {context.scope!r}: its context is out of date")
        return known

    async def _validate(
        self, pending: PendingDecision, known: _CacheEntry[C] | None
    ) -> _CacheEntry[C]:
        await self._wait_for_commits(pending.scope)
        now = time.monotonic()
        if known is not None:
            state = await hold.read_state(self._store.by_index, self._store.subscriber, pending)
            if (known.version, len(known.held) + known.newer) == (state.version, state.held):
                known.checked, known.last_seq = now, pending.last
                return known
        return await self._rebuild(pending, now)

    def _pending_decision(self, scope: Scope) -> PendingDecision:
        """Return the deliveries of a scope in the current block of `settling`."""
        tokens = [token for token in handling() if token.scope == scope]
        return PendingDecision(scope, tokens, self._settings.event_order == "strict")

    async def _rebuild(self, pending: PendingDecision, now: float) -> _CacheEntry[C]:
        fetch, subscriber, scope = self._store.by_index, self._store.subscriber, pending.scope
        recent, max_bytes = self._settings.context_recent, self._settings.context_max_bytes
        held = await hold.read_held(fetch, subscriber, pending, self._store.limits.depth, max_bytes)
        if held.excess:
            await self._store.drop_held(
                [HeldDeliveries(scope, held.excess)], TOO_MANY_BYTES.format(max_bytes)
            )
            held = await hold.read_held(
                fetch, subscriber, pending, self._store.limits.depth, max_bytes
            )
        left = int(max_bytes * KEPT_SHARE) - held.weight
        acted_on = await hold.read_covered(fetch, subscriber, scope, recent, left)
        state = held.state
        context = self._restore(
            scope=scope,
            events=held.events,
            recent=[*held.events, *acted_on],
            scratch=state.scratch,
            last_action_at=state.last_action_at,
            clock=self._store.now,
        )
        limit_prompt(context, self._settings.prompt_max_bytes)
        scratch = to_json(state.scratch)
        weight = held.weight + total_weight(acted_on)
        return _CacheEntry(
            context, state.version, held.tokens, held.newer, scratch, now, pending.last, weight
        )

    def _drop_excess(
        self, context: C, known: _CacheEntry[C], excess: list[int], reason: str
    ) -> None:
        """Drop the oldest events in the background, many at once, since each drop takes a commit."""
        if not excess:
            return
        dropped = {seq: known.held.pop(seq) for seq in excess}
        context.drop(set(dropped))
        known.version += 1
        tokens = tuple(dropped.values())
        done = self._track_commit(context.scope, tokens)
        dropping = self._drop(context.scope, tokens, known.version, reason, done)
        self._store.background.start(dropping, "dropping the excess events of a scope")

    async def _drop(
        self,
        scope: Scope,
        tokens: tuple[Token, ...],
        version: int,
        reason: str,
        done: CommitCallback,
    ) -> None:
        try:
            dropped, versions = await self._store.drop_held([HeldDeliveries(scope, tokens)], reason)
        except Exception as error:
            done(error)
        except asyncio.CancelledError:
            done(InterruptedError("the drop was cancelled"))
            raise
        else:
            done((dropped, versions[scope]) == (len(tokens), version))

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
