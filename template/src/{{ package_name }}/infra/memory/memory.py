"""Working memories: one context for each scope, under its lock, stored as the deliveries that it holds.

A context is a cache. Before a decision, the version of its scope is read, unless that was done a moment ago. If
another worker changed the scope, the context is rebuilt. All effects of a decision are one transaction, so after
a crash before its commit the decision is only taken again.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Self, overload

from ...core.context import DecisionContext
from ...core.events import ActionEvent, AgentDroppedEvent
from ...core.outcomes import Act, Drop, Outcome, Wait
from ...core.units import Scope, Seconds
from ..locks import ScopedLocks
from ..store import EventStore, Token
from ..store.scopes import OnAction as OnAction
from ..store.scopes import refuse_unanswerable
from ..telemetry.tracing import current_decision, note
from .attempts import Attempts, end_attempt
from .cache import ContextCache
from .commits import BackgroundCommits
from .deadlines import Deadlines
from .decisions import Decisions
from .failures import BUSY_DELAY as BUSY_DELAY  # some loops ask for it here
from .failures import Settling
from .limits import ScopeLimits
from .loading import ContextLoader
from .outages import OutageDeferrals
from .rebuild import Restore
from .trimming import newest_events

WAIT_IN_ACT = (
    "a trigger answered Wait, which this loop hands to `memory.act`: in agent/loop.py, write"
    " `await memory.perform(ctx, token, outcome=output)` for what the trigger answers"
)


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
        self._settings = store.settings
        self._outages = OutageDeferrals(store)
        self._deadlines = Deadlines(store.settings.event_handler_timeout)
        self._cache = ContextCache(store.settings)
        self._commits = BackgroundCommits(store, self._cache.invalidate)
        self._attempts = Attempts(store, self._cache, self._commits)
        self._limits = ScopeLimits(store, self._cache, self._commits)
        self._loader = ContextLoader(store, locks, self._cache, self._commits, restore)
        self._decisions = Decisions(
            store, locks, self._cache, self._commits, self._limits, on_action
        )

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
            DecisionPending: an unfinished decision of the scope comes first.
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
                self._attempts.close(scope)
                self._cache.mark_closed(scope)

    async def load(self, scope: Scope) -> DecisionContext:
        """Return the scope's context: the cached one if it is current, or a rebuilt one.

        The caller must have the scope's lock.

        Raises:
            EarlierEventPending: an earlier event of the scope comes first.
            DecisionPending: an unfinished decision of the scope comes first.
            ScopeMoved: another worker claimed one of the events to decide on.
        """
        return await self._loader.load(scope)

    def invalidate(self, scope: Scope) -> None:
        """Remove the scope's context from the cache, so that the next decision rebuilds it."""
        self._cache.invalidate(scope)

    def action_id(self, context: DecisionContext) -> str:
        """Return the id of this context's next action, which is the same on every retry.

        Call it right before the trigger: the trigger's span and the decision's journal start here, and the context's
        clock stands still until the decision is over.

        Raises:
            ScopeMoved: the context was rebuilt or removed meanwhile.
        """
        if decision := current_decision():
            decision.trigger_starts()
        return self._attempts.begin(self._cache.entry_of(context))

    async def perform(
        self, context: DecisionContext, *tokens: Token, outcome: Outcome | None
    ) -> None:
        """Do what a trigger answered with the context's events, of which those in flight have these tokens.

        Raises:
            InvalidEvent: an event has reached EVENT_MAX_DEPTH, so no action may follow it.
            ScopeMoved: another worker changed the scope meanwhile; nothing was written.
            ScopeBusy: the scope's lock was lost, and another worker has it; nothing was written.
            ValueError: an event to drop is not in the context.
        """
        match outcome:
            case None:
                await self.hold(context, *tokens)
            case Wait():
                await self.hold(context, *tokens, wait=outcome.seconds)
            case Act() | Drop():
                await self.act(context, *tokens, trigger="trigger", output=outcome)

    async def hold(
        self, context: DecisionContext, *tokens: Token, wait: Seconds | None = None
    ) -> None:
        """Hold events in the context's scope, with its notes, until the next action.

        With `wait`, the trigger is evaluated again in so many seconds, even if no event comes.

        The next decision does not wait for the commit, which many holds share. Until then the events stay
        leased, so they are claimed again after a crash. If the commit fails, the context is rebuilt without them.

        Raises:
            InvalidEvent: an event has reached EVENT_MAX_DEPTH, so no action may follow it.
            ScopeMoved: the context was rebuilt or removed meanwhile.
        """
        known, weight = self._cache.entry_of(context), 0
        tokens = known.own(tokens)
        for event in newest_events(context.events, tokens):
            refuse_unanswerable(event, self._settings.event_max_depth)
            weight += event.stored_weight
        note(outcome="held", size=len(context.events))
        ends = known.next_action_id(self._store.subscriber) if end_attempt(known) else None
        known.pin = None
        changed = known.change_notes(wait)
        known.held.update({token.seq: token for token in tokens})
        done = self._commits.track(context.scope, tokens)
        self._store.scopes.hold(context.scope, tokens, changed, done, ends)
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

    @overload
    async def act(  # pyright: ignore[reportOverlappingOverload] - what is typed as an object is hardly a Drop
        self, context: DecisionContext, *tokens: Token, trigger: str, output: Drop
    ) -> AgentDroppedEvent: ...

    @overload
    async def act(
        self, context: DecisionContext, *tokens: Token, trigger: str, output: object
    ) -> ActionEvent: ...

    async def act(
        self, context: DecisionContext, *tokens: Token, trigger: str, output: object
    ) -> ActionEvent | AgentDroppedEvent:
        """Act on all events of the context, exactly once in the database, and clear it.

        One transaction increases the scope's version, acks these deliveries and those of the context's events,
        publishes the action and runs `on_action`. An output that is an `Act` or a `Drop` is performed as such.

        Raises:
            ScopeMoved: another worker changed the scope meanwhile; nothing was written.
            ScopeBusy: the scope's lock was lost, and another worker has it; nothing was written.
            TypeError: the output is a `Wait`, which only `perform` can do.
            ValueError: an event to drop is not in the context.
        """
        match output:
            case Wait():
                raise TypeError(WAIT_IN_ACT)
            case Drop():
                return await self._decisions.drop(context, tokens, trigger, output)
            case Act():
                named = output if output.trigger else replace(output, trigger=trigger)
                return await self._decisions.act(context, tokens, named)
            case _:
                return await self._decisions.act(context, tokens, Act(output, trigger))
