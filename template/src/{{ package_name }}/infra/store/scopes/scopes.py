"""Reads and changes the scopes of one subscriber: `hold`, `act`, `drop` and `drop_decided`."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import logfire

from ...database import fetch_in
from ...telemetry import counters
from .act import act
from .aged import find_aged
from .drop import DecidedDrop, HeldDeliveries, drop, drop_decided, report
from .held_events import read_covered, read_held
from .hold import HoldRequest, Holds, ScopeNotes
from .state import ScopeMoved, read_state

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

    from ....core.events import ActionEvent, AgentDroppedEvent, Event
    from ....core.units import Scope, Seconds
    from ...database import Fetch
    from ..claim import Token
    from ..codec import Limits
    from ..connections import StoreConnections
    from ..queue import SubscriberQueue
    from ..settle import CommitCallback
    from .act import OnAction
    from .held_events import Held
    from .state import PendingDecision, ScopeState

RETRYABLE_STATES = frozenset(
    {"40001", "40P01"}
)  # serialization failure and deadlock: a retry may succeed
MAX_TRANSACTION_TRIES = 5  # of an action, before its decision fails
CONFLICT_PAUSE: Seconds = 0.05


class Scopes:
    """The scopes of one subscriber: their state, their held events, and the transactions that change them."""

    def __init__(
        self,
        connections: StoreConnections,
        queue: SubscriberQueue,
        limits: Limits,
        sessions: async_sessionmaker[AsyncSession] | None,
    ) -> None:
        self._connections = connections
        self._queue = queue
        self._limits = limits
        self._sessions = sessions
        self._holds = Holds(queue.settler)

    async def read_state(self, pending: PendingDecision) -> ScopeState:
        """Return the state of a scope.

        Raises:
            ScopeMoved: another worker claimed one of the deliveries meanwhile.
            EarlierEventPending: an earlier delivery of the scope comes first.
        """
        return await read_state(self._connections.by_index, self._queue.subscriber, pending)

    async def read_held(self, pending: PendingDecision, max_bytes: int) -> Held:
        """Return a scope's state and its newest held events, in at most `max_bytes` of memory.

        Raises:
            ScopeMoved: another worker claimed one of the deliveries meanwhile.
            EarlierEventPending: an earlier delivery of the scope comes first.
        """
        fetch, depth = self._connections.by_index, self._limits.depth
        return await read_held(fetch, self._queue.subscriber, pending, depth, max_bytes)

    async def read_covered(self, scope: Scope, seconds: Seconds, max_bytes: int) -> list[Event]:
        """Return the newest events that actions covered in the last `seconds`, in at most `max_bytes`."""
        fetch, subscriber = self._connections.by_index, self._queue.subscriber
        return await read_covered(fetch, subscriber, scope, seconds, max_bytes)

    def hold(
        self,
        scope: Scope,
        tokens: tuple[Token, ...],
        notes: ScopeNotes | None,
        done: CommitCallback,
        ends: str | None = None,
    ) -> None:
        """Hold deliveries, and call `done` after the commit; `notes` are those of the scope, if they changed.

        `ends` is the action id of the decision, if units of it are recorded.
        """
        self._holds.add(HoldRequest(scope, tokens, notes, ends), done)

    async def act(
        self,
        action: ActionEvent,
        version: int,
        held: Sequence[Token],
        tokens: Sequence[Token],
        on_action: OnAction | None,
        *,
        journaled: bool = False,
    ) -> None:
        """Commit an action on a scope at `version`, which settles held deliveries and those in flight (`tokens`).

        With `on_action`, its database effects commit together with the action. A conflict with another
        transaction does not count as a failure: the action is committed again. `journaled` is whether units of the
        decision are recorded.

        Raises:
            ScopeMoved: another worker changed the scope or settled one of the events; nothing was written.
        """
        covered = [*held, *tokens]
        forget = self._connections.settings.decision_retention == 0 if journaled else None
        await _without_conflict(lambda: self._commit(action, version, covered, forget, on_action))
        counters.handled.add(len(covered))
        counters.published.add(1)
        self._queue.settled(tokens, final=True)
        self._connections.notifier.notify()

    async def _commit(
        self,
        action: ActionEvent,
        version: int,
        covered: list[Token],
        forget: bool | None,
        on_action: OnAction | None,
    ) -> None:
        if on_action is None:  # opening a session would take longer than the statement
            return await self._write(self._connections.long_fetch, action, version, covered, forget)
        assert self._sessions is not None, "this store was opened without sessions"  # noqa: S101 - narrows the type
        async with self._sessions.begin() as session:
            await self._write(fetch_in(session), action, version, covered, forget)
            async with self._queue.interruptible(session):
                await on_action(session, action)

    async def _write(
        self,
        fetch: Fetch,
        action: ActionEvent,
        version: int,
        covered: list[Token],
        forget: bool | None,
    ) -> None:
        limits = self._limits.for_covering(action.covers)
        acted = await act(fetch, self._queue.subscriber, action, version, covered, limits, forget)
        if len(acted) != len(covered):
            self._queue.note_stale([token for token in covered if token.seq not in acted])
            raise ScopeMoved("some of the events were settled by another worker")

    async def drop_decided(
        self, decision: DecidedDrop, tokens: Sequence[Token]
    ) -> AgentDroppedEvent:
        """Commit a decision to drop, which settles deliveries in flight (`tokens`); return the last event about it.

        Raises:
            ScopeMoved: another worker changed the scope or settled one of the events; nothing was written.
        """

        async def commit() -> list[AgentDroppedEvent]:
            async with self._connections.indexed_transaction() as fetch:
                return await drop_decided(fetch, self._queue.subscriber, decision, self._limits)

        published = await _without_conflict(commit)
        report(published, "info")
        self._queue.settled(tokens, final=True)
        self._connections.notifier.notify()
        return published[-1]

    async def drop(
        self, held: Sequence[HeldDeliveries], reason: str
    ) -> tuple[int, dict[Scope, int]]:
        """Drop held deliveries; return their number and the new version of each scope."""
        async with self._connections.indexed_transaction() as fetch:
            published, versions = await drop(
                fetch, self._queue.subscriber, held, reason, self._limits
            )
        if published:
            report(published)
            self._connections.notifier.notify()
        return sum(len(event.covers) for event in published), versions

    async def drop_aged(self, age: Seconds) -> int:
        """Drop events that were held for longer than `age` seconds, in all scopes; return their number.

        The same transaction publishes an `agent.dropped` for each scope, which covers the events.
        """
        reason, count = f"held for longer than CONTEXT_MAX_AGE ({age:g} s)", 0
        after: HeldDeliveries | None = None
        while True:
            async with self._connections.indexed_transaction() as fetch:
                held = await find_aged(fetch, self._queue.subscriber, age, after)
            if not held:
                return count
            count += (await self.drop(held, reason))[0]
            after = held[-1]

    async def close(self) -> None:
        """Wait until all holds are committed."""
        await self._holds.close()


async def _without_conflict[Result](commit: Callable[[], Awaitable[Result]]) -> Result:
    """Commit again after a conflict with another transaction, at most `MAX_TRANSACTION_TRIES` times in all."""
    for _ in range(MAX_TRANSACTION_TRIES - 1):
        try:
            return await commit()
        except Exception as error:
            reason = getattr(error, "orig", error)  # SQLAlchemy wraps it
            if getattr(reason, "sqlstate", None) not in RETRYABLE_STATES:
                raise
            logfire.warn("A decision is committed again: {reason}", reason=str(reason))
            await asyncio.sleep(CONFLICT_PAUSE * random.uniform(0.5, 1.5))  # noqa: S311 - only jitter
    return await commit()
