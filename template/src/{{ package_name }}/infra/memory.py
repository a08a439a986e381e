"""Working memories: one context a scope, under its lock, saved as deliveries that it holds.

A context is a cache. Unless it was compared with the database a moment ago, its scope's version is
read before a decision; a context that another worker moved on is rebuilt. What is done with a decision
is one transaction, so a crash before its commit only means that the decision is taken again.
"""

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from types import TracebackType
from uuid import NAMESPACE_OID, uuid5

import asyncpg
import logfire
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from ..core.events import ActionEvent
from ..core.types import Scope, Seconds
from .contexts import Context, Restore
from .database import DatabaseUnavailable, Fetch, fetch_in, to_json, waited
from .deadlines import Deadlines
from .failures import BUSY_DELAY as BUSY_DELAY  # some loops ask for it here
from .failures import Settling
from .locks import ScopedLocks
from .spans import step
from .store import EventStore, ScopeMoved, Token, counters, hold, settle
from .store.drop import ToDrop
from .store.publish import insert_events
from .store.settle import Done, Hold
from .text import jsonable, storable
from .tracing import current_decision, note
from .waiting import Waiting

NO_NOTES = "{}"  # as JSON
KEPT_SHARE = 0.75  # of the most that a scope may hold, once it has more
CONFLICTS = frozenset(
    {"40001", "40P01"}
)  # serialization failure, deadlock: the same may succeed now
TRANSACTIONS = 5  # of one action that meet others, before its decision counts as failed
CONFLICT_PAUSE: Seconds = 0.05

type OnAction = Callable[[AsyncSession, ActionEvent], Awaitable[None]]
"""Database effects of an action, in the transaction that settles its events."""


@dataclass
class _Remembered[C]:
    """A cached context, and what it was true of."""

    context: C
    version: int
    held: dict[int, Token]
    newer: int
    """How many more the scope holds, which only newer code can read."""
    scratch: str
    checked: float
    """When it was last compared with the database, on this process's monotonic clock."""


@dataclass
class _Saving:
    """Commits of a scope that no decision waits for."""

    commits: int = 0
    done: asyncio.Event = field(default_factory=asyncio.Event)


class Opened[C: Context]:
    """The block of `Memory.open`: a class, since a generator would cost more than most decisions."""

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
        """Take the lock, and then the context."""
        await self._turn.__aenter__()
        self._deadline = self._deadlines.start()
        await self._deadline.__aenter__()
        try:
            context = await self._memory.current(self._scope)
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        if decision := current_decision():
            decision.opened()
        return context

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Say so if it took too long, and give the lock back."""
        try:
            await self._deadline.__aexit__(kind, error, trace)
        except TimeoutError as late:
            limit = self._deadlines.limit
            message = f"the decision took longer than {limit:g} s"
            if waited(late.__cause__):
                raise DatabaseUnavailable(f"{message}, and waited for it at the end") from late
            raise TimeoutError(message) from late
        finally:
            self._deadlines.end(self._deadline)
            if error is not None:
                self._memory.forget(self._scope)
            await self._turn.__aexit__(kind, error, trace)


class Memory[C: Context]:
    """The contexts of one subscriber in this process."""

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
        self._waiting = Waiting(store)
        self._deadlines = Deadlines(store.settings.event_handler_timeout)
        self._cache: OrderedDict[Scope, _Remembered[C]] = OrderedDict()
        self._saving: dict[Scope, _Saving] = {}

    def settling(self, *tokens: Token) -> Settling:
        """Settle these deliveries as failed if the block fails.

        A busy or moved scope hands them back unspent; `Unavailable` does so too, and nothing of the
        scope is claimed until it is over. Anything else counts as an attempt, is logged with its
        traceback and retried after a backoff.
        """
        return Settling(self._store, tokens, self._waiting)

    def open(self, scope: Scope) -> "Opened[C]":
        """Give the scope's current context, under its lock and the time limit of a decision.

        Under a lock that other processes respect it is as current as the database; otherwise it may
        be `CONTEXT_TRUSTED` seconds behind them. A block that fails leaves it to be rebuilt.

        Raises:
            ScopeBusy: another handler has the scope.
            TimeoutError: the decision took too long.
            DatabaseUnavailable: it did so because the database, or a connection to it, kept it waiting.
        """
        turn = self._locks.acquire(scope, wait=False)
        return Opened(self, scope, turn, self._deadlines)

    async def current(self, scope: Scope) -> C:
        """Return the scope's context: the cached one if it is the whole truth, or a rebuilt one.

        Only whoever has the scope's lock may ask.
        """
        known = self._cache.get(scope)
        trusted = 0.0 if self._locks.across_processes else self._settings.context_trusted
        if known is None or time.monotonic() - known.checked >= trusted:
            known = await self._checked(scope, known)
            self._cache[scope] = known
            # Never fewer than are open at once: those are in use.
            keep = max(self._settings.context_max_scopes, self._settings.agent_concurrency)
            while len(self._cache) > keep:
                self._cache.popitem(last=False)
        self._cache.move_to_end(scope)
        return known.context

    def forget(self, scope: Scope) -> None:
        """Let the scope's context be rebuilt when it is opened next."""
        self._cache.pop(scope, None)

    def action_id(self, context: C) -> str:
        """Return the id that the next action of this context will have, the same on every retry.

        Loops ask for it right before the trigger, whose span begins here.
        """
        if decision := current_decision():
            decision.triggering()
        return self._next_id(context)

    def _next_id(self, context: C) -> str:
        first = context.events[0].id if context.events else ""
        version = self._known(context).version
        return _action_id(self._store.subscriber, context.scope, version, first)

    async def hold(self, context: C, *tokens: Token) -> None:
        """Keep events in the context's scope, with its notes: the trigger wants more.

        The next decision need not wait for the commit, which many holds share. Until then the
        events stay leased, so a crash brings them back; and what cannot be held after all is taken
        out of the context by rebuilding it.
        """
        known = self._known(context)
        note(outcome="held", size=len(context.events))
        scratch = hold.write_notes(context.scratch) if context.scratch else NO_NOTES
        changed = scratch if scratch != known.scratch else None
        known.scratch = scratch
        known.held.update({token.seq: token for token in tokens})
        done = self._settle_later(context.scope, tokens)
        self._store.settler.hold(Hold(context.scope, tokens, changed), done)
        if self._locks.across_processes:
            await self._saved(context.scope)  # whoever has the lock next looks at the database
        if len(known.held) > self._settings.context_max_events:
            self._drop_excess(context, known)

    def skip(self, *tokens: Token) -> None:
        """Let go of events that the filter did not let in; the next decision need not wait for it."""
        note(outcome="filtered out")
        self._store.settler.ack_later(tokens, self._settle_later("", tokens))

    async def flush(self) -> None:
        """Wait until the database has all that was held and skipped so far."""
        for scope in list(self._saving):
            await self._saved(scope)

    def _settle_later(self, scope: Scope, tokens: tuple[Token, ...]) -> Done:
        """Return what is to be told how a commit went that no decision waits for."""
        saving = self._saving.get(scope)
        if saving is None:
            saving = self._saving[scope] = _Saving()
        saving.commits += 1
        return partial(self._settled, scope, tokens)

    def _settled(self, scope: Scope, tokens: tuple[Token, ...], result: bool | Exception) -> None:
        saving = self._saving[scope]
        saving.commits -= 1
        if not saving.commits:
            del self._saving[scope]
            saving.done.set()
        if isinstance(result, DatabaseUnavailable):
            logfire.warn("Waiting for the database: {error}", error=str(result))
            self._store.background.start(self._store.outlast(*tokens), "waiting for the database")
        elif isinstance(result, Exception):
            # Not renewed any more, so the lease runs out and the events come again.
            self._store.settled(*tokens)
            logfire.warn("Events were not settled: {error}", error=repr(result))
        if result is not True:
            self.forget(scope)

    async def _saved(self, scope: Scope) -> None:
        """Wait until the database has everything that the scope's context holds."""
        while saving := self._saving.get(scope):
            await saving.done.wait()

    async def act(self, context: C, *tokens: Token, trigger: str, output: object) -> ActionEvent:
        """Act on everything in the context, exactly once in the database, and clear it.

        One transaction moves the scope's version, deletes the deliveries that the context shows and
        these, publishes the action and runs the owner's database effects.

        Raises:
            ScopeMoved: another worker was here meanwhile; nothing happened.
            ScopeBusy: the scope's lock was lost, and another worker has it; nothing happened.
        """
        known = self._known(context)
        size = len(context.events)
        if decision := current_decision():
            decision.triggered(trigger)
        await self._saved(context.scope)
        await self._locks.confirm(context.scope)
        action = self._action(context, trigger, output)
        seen = {event.seq for event in context.events}
        covered = [*(token for token in known.held.values() if token.seq in seen), *tokens]
        if len(covered) < len(known.held) + len(tokens):
            # The trigger took events out: they stay held, and come again.
            self.forget(context.scope)
        with step("store.act", action_id=action.id, covers=len(covered)):
            await self._commit(action, known, covered)
        note(outcome="acted", size=size)
        counters.handled.add(len(covered))
        counters.published.add(1)
        self._store.settled(*tokens)
        self._store.announce()
        context.clear()
        context.forget(self._settings.context_recent)
        known.version += 1
        known.held, known.scratch = {}, NO_NOTES
        return action

    async def _commit(
        self, action: ActionEvent, known: _Remembered[C], covered: list[Token]
    ) -> None:
        """Do all of an action, again if its transaction met another: that is no failure of the event."""
        for left in reversed(range(TRANSACTIONS)):
            try:
                return await self._transact(action, known, covered)
            except (DBAPIError, asyncpg.PostgresError) as error:
                reason = error.orig if isinstance(error, DBAPIError) else error
                if not left or getattr(reason, "sqlstate", None) not in CONFLICTS:
                    raise
                logfire.warn("An action is committed again: {reason}", reason=str(reason))
                await asyncio.sleep(CONFLICT_PAUSE * random.uniform(0.5, 1.5))  # noqa: S311 - only jitter

    async def _transact(
        self, action: ActionEvent, known: _Remembered[C], covered: list[Token]
    ) -> None:
        if self._on_action is None:  # a session takes longer than the statements themselves
            async with self._store.transaction() as fetch:
                return await self._write(fetch, action, known, covered)
        async with self._store.sessions.begin() as session:
            await self._write(fetch_in(session), action, known, covered)
            async with self._store.interruptible(session):
                await self._on_action(session, action)

    async def _write(
        self, fetch: Fetch, action: ActionEvent, known: _Remembered[C], covered: list[Token]
    ) -> None:
        await self._settle_all(fetch, action.scope, known, covered)
        await insert_events(fetch, [action], self._store.limits.beside(action.covers))

    async def _settle_all(
        self, fetch: Fetch, scope: Scope, known: _Remembered[C], covered: list[Token]
    ) -> None:
        await hold.move(fetch, self._store.subscriber, scope, known.version, {})
        done = await settle.ack(fetch, self._store.subscriber, covered)
        if len(done) != len(covered):
            self._store.note_late([token for token in covered if token.seq not in done])
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

    def _known(self, context: C) -> _Remembered[C]:
        """Return what an open context was true of.

        Raises:
            ScopeMoved: it was forgotten or rebuilt meanwhile: its decision did not see what is held.
        """
        known = self._cache.get(context.scope)
        if known is None or known.context is not context:
            raise ScopeMoved(f"scope {context.scope!r}: its context is no longer what it holds")
        return known

    async def _checked(self, scope: Scope, known: _Remembered[C] | None) -> _Remembered[C]:
        await self._saved(scope)
        now = time.monotonic()
        if known is not None:
            state = await hold.read_state(self._store.by_index, self._store.subscriber, scope)
            if (known.version, len(known.held) + known.newer) == (state.version, state.held):
                known.checked = now
                return known
        return await self._rebuild(scope, now)

    async def _rebuild(self, scope: Scope, now: float) -> _Remembered[C]:
        fetch, subscriber = self._store.by_index, self._store.subscriber
        held = await hold.read_held(fetch, subscriber, scope)
        recent = self._settings.context_recent
        acted_on = await hold.read_covered(fetch, subscriber, scope, recent)
        state = held.state
        context = self._restore(
            scope=scope,
            events=held.events,
            recent=[*held.events, *acted_on],
            scratch=state.scratch,
            last_action_at=state.last_action_at,
            clock=self._store.now,
        )
        scratch = to_json(state.scratch)
        return _Remembered(context, state.version, held.tokens, held.newer, scratch, now)

    def _drop_excess(self, context: C, known: _Remembered[C]) -> None:
        """Give up the oldest events, some at once: it costs a commit and moves the version."""
        excess = len(known.held) - int(self._settings.context_max_events * KEPT_SHARE)
        dropped = {seq: known.held.pop(seq) for seq in sorted(known.held)[:excess]}
        context.drop(set(dropped))
        known.version += 1
        tokens = tuple(dropped.values())
        done = self._settle_later(context.scope, tokens)
        dropping = self._drop(context.scope, tokens, known.version, done)
        self._store.background.start(dropping, "dropping what a scope holds too much")

    async def _drop(
        self, scope: Scope, tokens: tuple[Token, ...], version: int, done: Done
    ) -> None:
        most = self._settings.context_max_events
        reason = f"the scope held more than CONTEXT_MAX_EVENTS ({most}): these were the oldest"
        try:
            dropped, versions = await self._store.drop_held([ToDrop(scope, tokens)], reason)
        except Exception as error:
            done(error)
        except asyncio.CancelledError:
            done(InterruptedError("the drop was cancelled"))
            raise
        else:
            done((dropped, versions[scope]) == (len(tokens), version))


@lru_cache(maxsize=1_000)
def _action_id(subscriber: str, scope: Scope, version: int, first: str) -> str:
    return str(uuid5(NAMESPACE_OID, f"{subscriber}/{scope}/{version}/{first}"))
