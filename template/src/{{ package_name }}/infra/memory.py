"""Working memories: one context a scope, under its lock, saved as deliveries that it holds.

A context is a cache. Unless it was compared with the database a moment ago, its scope's version is
read before a decision; a context that another worker moved on is rebuilt. What is done with a decision
is one transaction, so a crash before its commit only means that the decision is taken again.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from types import TracebackType
from uuid import NAMESPACE_OID, uuid5

import logfire
from pydantic_core import to_jsonable_python
from sqlalchemy.ext.asyncio import AsyncSession

from ..core.events import ActionEvent
from ..core.types import Scope
from .contexts import Context, Restore
from .database import Fetch, fetch_in, to_json
from .deadlines import Deadlines
from .failures import BUSY_DELAY as BUSY_DELAY  # some loops ask for it here
from .failures import Settling
from .locks import ScopedLocks
from .store import EventStore, ScopeMoved, Token, counters, hold, settle
from .store.codec import decode_known
from .store.hold import ScopeState
from .store.publish import insert_events
from .store.settle import Done, Hold
from .tracing import note
from .waiting import Waiting

NO_NOTES = "{}"  # as JSON
KEPT_SHARE = 0.75  # of the most that a scope may hold, once it has more

type OnAction = Callable[[AsyncSession, ActionEvent], Awaitable[None]]
"""Database effects of an action, in the transaction that settles its events."""


@dataclass
class _Remembered[C]:
    """A cached context, and what it was true of."""

    context: C
    version: int
    held: dict[int, Token]
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
            return await self._memory.current(self._scope)
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise

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
            raise TimeoutError(f"the decision took longer than {limit:g} s") from late
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
        self._releasing: set[asyncio.Task[None]] = set()

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
        """Return the id that the next action of this context will have, the same on every retry."""
        first = context.events[0].id if context.events else ""
        version = self._cache[context.scope].version
        return _action_id(self._store.subscriber, context.scope, version, first)

    async def hold(self, context: C, *tokens: Token) -> None:
        """Keep events in the context's scope, with its notes: the trigger wants more.

        The next decision need not wait for the commit, which many holds share. Until then the
        events stay leased, so a crash brings them back; and what cannot be held after all is taken
        out of the context by rebuilding it.
        """
        note(outcome="held", size=len(context.events))
        known = self._cache[context.scope]
        scratch = to_json(context.scratch) if context.scratch else NO_NOTES
        changed = scratch if scratch != known.scratch else None
        known.scratch = scratch
        known.held.update({token.seq: token for token in tokens})
        done = self._settle_later(context.scope, tokens)
        self._store.settler.hold(Hold(context.scope, tokens, changed), done)
        if self._locks.across_processes:
            await self._saved(context.scope)  # whoever has the lock next looks at the database
        if len(known.held) > self._settings.context_max_events:
            self._release_excess(context, known)

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
        if isinstance(result, Exception):
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

        One transaction moves the scope's version, deletes what was held and what is in hand,
        publishes the action and runs the owner's database effects.

        Raises:
            ScopeMoved: another worker was here meanwhile; nothing happened.
        """
        note(outcome="acted", size=len(context.events))
        known = self._cache[context.scope]
        await self._saved(context.scope)
        action = self._action(context, trigger, output)
        async with self._store.sessions.begin() as session:
            fetch = fetch_in(session)
            await self._settle_all(fetch, context.scope, known, tokens)
            await insert_events(fetch, [action], self._settings.event_max_depth)
            if self._on_action is not None:
                await self._on_action(session, action)
        counters.handled.add(len(known.held) + len(tokens))
        counters.published.add(1)
        self._store.settled(*tokens)
        self._store.announce()
        context.clear()
        context.forget(self._settings.context_recent)
        known.version += 1
        known.held, known.scratch = {}, NO_NOTES
        return action

    async def _settle_all(
        self, fetch: Fetch, scope: Scope, known: _Remembered[C], tokens: tuple[Token, ...]
    ) -> None:
        await hold.move(fetch, self._store.subscriber, scope, known.version, {})
        covered = [*known.held.values(), *tokens]
        done = await settle.ack(fetch, self._store.subscriber, covered)
        if len(done) != len(covered):
            self._store.note_late([token for token in covered if token.seq not in done])
            raise ScopeMoved("some of the events were settled by another worker")

    def _action(self, context: C, trigger: str, output: object) -> ActionEvent:
        return ActionEvent(
            id=self.action_id(context),
            source=f"agent:{self._store.subscriber}",
            scope=context.scope,
            trigger=trigger,
            output=to_jsonable_python(output),
            covers=[event.id for event in context.events],
            meta=max((event.caused() for event in context.events), key=lambda meta: meta.depth),
        )

    async def _checked(self, scope: Scope, known: _Remembered[C] | None) -> _Remembered[C]:
        await self._saved(scope)
        now = time.monotonic()
        state = await hold.read_state(self._store.by_index, self._store.subscriber, scope)
        if known is None or (known.version, len(known.held)) != (state.version, state.held):
            return await self._rebuild(scope, state, now)
        known.checked = now
        return known

    async def _rebuild(self, scope: Scope, state: ScopeState, now: float) -> _Remembered[C]:
        fetch, subscriber = self._store.by_index, self._store.subscriber
        held = await hold.read_held(fetch, subscriber, scope)
        covered = await hold.read_covered(fetch, scope, self._settings.context_recent)
        # What is of no known shape any more is not seen, and goes with the next action.
        events = [event for row in held if (event := decode_known(row))]
        acted_on = [event for row in covered if (event := decode_known(row))]
        context = self._restore(
            scope=scope,
            events=events,
            recent=[*events, *acted_on],
            scratch=state.scratch,
            last_action_at=state.last_action_at,
            clock=self._store.now,
        )
        tokens = {row["seq"]: Token(row["seq"], row["fence"]) for row in held}
        return _Remembered(context, state.version, tokens, to_json(state.scratch), now)

    def _release_excess(self, context: C, known: _Remembered[C]) -> None:
        """Let go of the oldest events, of some at once: it costs a commit and moves the version."""
        excess = len(known.held) - int(self._settings.context_max_events * KEPT_SHARE)
        released = {seq: known.held.pop(seq) for seq in sorted(known.held)[:excess]}
        context.drop(set(released))
        known.version += 1
        tokens = tuple(released.values())
        done = self._settle_later(context.scope, tokens)
        releasing = asyncio.create_task(self._release(context.scope, tokens, known.version, done))
        self._releasing.add(releasing)  # nobody else keeps it
        releasing.add_done_callback(self._releasing.discard)

    async def _release(
        self, scope: Scope, tokens: tuple[Token, ...], version: int, done: Done
    ) -> None:
        fetch, subscriber = self._store.by_index, self._store.subscriber
        try:
            released = await hold.release(fetch, subscriber, scope, tokens)
        except Exception as error:
            done(error)
        else:
            done(released == (len(tokens), version))


@lru_cache(maxsize=1_000)
def _action_id(subscriber: str, scope: Scope, version: int, first: str) -> str:
    return str(uuid5(NAMESPACE_OID, f"{subscriber}/{scope}/{version}/{first}"))
