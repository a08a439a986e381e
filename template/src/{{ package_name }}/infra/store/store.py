"""The public interface of the event store: `EventStore`."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

from ...config import Settings, get_settings
from ..database import COMMIT_TIMEOUT
from .admin import Administration
from .codec import Limits
from .connections import StoreConnections
from .erase import select
from .failed_decisions import FailedDecisions
from .inspection import Inspection
from .journal import Journal
from .log import EventFilter, Latest, Log, readable
from .old_names import OldNames
from .queue import SubscriberQueue
from .scopes import Scopes

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime

    import asyncpg
    from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

    from ...core.events import Event
    from ...core.units import Scope, Seconds
    from ..database import Fetch
    from .claim import Token
    from .cursor import Cursor
    from .dead_letters import DeadLetter
    from .stats import DeliveryStatus, QueueStats


class EventStore(OldNames):
    """A durable log, and on top of it the queue of one subscriber.

    No accepted event is lost; each is handled at least once; database effects made with the ack
    happen exactly once; a stale worker cannot ack. Call `close` when the process ends.

    It is made of three parts: `log`, `queue` and `admin`. The methods here are those that agents use. `scopes` has
    the transactions of `Memory`.
    """

    def __init__(
        self,
        session_factory: async_sessionmaker[AsyncSession] | None,
        pool: asyncpg.Pool,
        *,
        subscriber: str = "agent",
        settings: Settings | None = None,
    ) -> None:
        self._sessions = session_factory
        self.pool = pool
        self.subscriber = subscriber
        self._settings = settings or get_settings()
        limits = Limits.of(self.settings)
        self.connections = StoreConnections(pool, self.settings, subscriber)
        self.fetch: Fetch = self.connections.fetch
        self.by_index: Fetch = self.connections.by_index
        """Runs a statement that an index supports, on a dedicated connection."""
        self.log = Log(self.connections, limits)
        """The log, with unreadable events, which the methods of the store leave out."""
        self.drafts = self.connections.drafts
        """The text of answers while it is generated, which is not stored."""
        self.queue = SubscriberQueue(self.connections, subscriber)
        """The deliveries of this subscriber."""
        self.admin = Administration(self.connections, limits, subscriber)
        """Dead letters, pruning, erasure, statistics and subscriptions."""
        self.journal = Journal(self.connections, subscriber)
        """The finished units of this subscriber's decisions."""
        self.scopes = Scopes(self.connections, self.queue, limits, session_factory)
        """The transactions of this subscriber's scopes."""
        self.failed_decisions = FailedDecisions()
        """The decisions of this process that failed of late."""
        self.inspection = Inspection(self.connections, subscriber)
        """What this subscriber perceives, remembers and decides, for people to read."""

    @property
    def sessions(self) -> async_sessionmaker[AsyncSession]:
        """The session factory for the application's tables; stores of commands have none."""
        assert self._sessions is not None, "this store was opened without sessions"  # noqa: S101 - narrows the type
        return self._sessions

    @property
    def settings(self) -> Settings:
        """The settings of the store and its parts."""
        return self._settings

    @property
    def stale(self) -> int:
        """The number of stale acks, nacks and holds."""
        return self.queue.stale

    async def close(self) -> None:
        """Commit all submitted events and acks, send the last wake-up and close the connections, in bounded time."""
        await self.queue.background.close(COMMIT_TIMEOUT)
        parts = (self.queue.settler, self.scopes, self.journal, self.log)
        await asyncio.gather(*(part.close() for part in parts))
        await self.connections.close()

    def checks(self) -> dict[str, Callable[[], Awaitable[object]]]:
        """Return a health check for each connection, by name."""
        return {**self.connections.checks(), **self.queue.checks()}

    @property
    def longest_wait(self) -> Seconds:
        """The longest time, in seconds, that a delivery may be deferred or wait for a retry."""
        return self.queue.longest_wait

    def now(self) -> datetime:
        """Return the database's time, estimated from this machine's clock and the last claim."""
        return self.queue.now()

    # The log

    async def publish(self, event: Event, *, session: AsyncSession | None = None) -> bool:
        """Accept an event; return False if it was published before with the same content.

        With `session`, it joins that transaction: your rows and the event commit or roll back together.

        Raises:
            InvalidEvent: it cannot be stored, or its chain of causes is too long.
            EventConflict: its id was published before with other content.
        """
        return await self.log.publish(event, session)

    async def publish_many(
        self, events: Sequence[Event], *, session: AsyncSession | None = None, by: str | None = None
    ) -> int:
        """Accept all of these events or, on an error, none; return how many were new.

        With `by`, the name of an operator, an `operator.action` records the publication.

        Raises:
            InvalidEvent: an event cannot be stored.
            EventConflict: an id was published before with other content.
        """
        return await self.log.publish_many(events, session, by)

    async def replay(
        self,
        start: datetime,
        end: datetime | None = None,
        event_types: list[str] | None = None,
        *,
        scope: Scope | None = None,
    ) -> AsyncGenerator[Event]:
        """Yield past events in order of `(timestamp, seq)`, in constant memory. It changes nothing."""
        async with aclosing(self.log.replay(start, end, EventFilter(event_types, scope))) as found:
            async for stored in found:
                if event := readable(stored):
                    yield event

    async def follow(
        self,
        after: Cursor | None = None,
        event_types: list[str] | None = None,
        *,
        scope: Scope | None = None,
    ) -> AsyncGenerator[tuple[Cursor, Event]]:
        """Yield events as they commit, after a cursor or from now on, each with the cursor to resume from.

        A reader that resumes gets each event once, however transactions overlap.
        """
        async with aclosing(self.log.follow(after, EventFilter(event_types, scope))) as found:
            async for cursor, stored in found:
                if event := readable(stored):
                    yield cursor, event

    async def end(self) -> Cursor:
        """Return the cursor after which `follow` yields the events that become visible from now on."""
        return await self.log.end()

    async def read_on(
        self, cursor: Cursor, event_types: list[str] | None = None, scope: Scope | None = None
    ) -> AsyncGenerator[tuple[Cursor, Event | None]]:
        """Yield the events after a cursor up to now, each with its cursor; then the current cursor and None."""
        async with aclosing(self.log.read_on(cursor, EventFilter(event_types, scope))) as found:
            async for next_cursor, stored in found:
                if (event := readable(stored)) or stored is None:
                    yield next_cursor, event

    def waking(self) -> AbstractAsyncContextManager[asyncio.Event]:
        """Provide an `asyncio.Event` that is set whenever events may have been published."""
        return self.log.waking()

    async def find(self, event_id: str) -> Event | None:
        """Return the event with this id; None if the log has none that this code can read."""
        return readable(await self.log.find(event_id))

    async def page(
        self,
        event_types: list[str] | None = None,
        *,
        scope: Scope | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[Event]:
        """Return the newest events with a `seq` below `before`, newest first."""
        found = await self.log.page(EventFilter(event_types, scope), before, limit)
        return [event for stored in found if (event := readable(stored))]

    async def latest(
        self,
        event_types: list[str] | None = None,
        *,
        scope: Scope | None = None,
        since: datetime,
        limit: int = 100,
    ) -> Latest:
        """Return the newest events recorded since a time, newest first.

        It scans the log backwards, at most `LATEST_SCAN_LIMIT` events of any type. `complete` is whether that
        covered the period.
        """
        return await self.log.latest(EventFilter(event_types, scope), since, limit)

    # The queue

    def subscribe(
        self, event_types: list[str] | None = None, batch_size: int = 100
    ) -> AsyncGenerator[tuple[Event, Token]]:
        """Yield events with the tokens that settle them, until `drain` is called.

        At most `batch_size` events are in flight: claimed and not settled. Their leases are renewed while they
        are buffered or being handled. A delivery is abandoned if no block of `Memory.settling` starts or ends in
        its scope for `EVENT_HANDLER_TIMEOUT` and one lease.

        Close the iterator (`contextlib.aclosing`) to release the unsettled ones without spending an attempt.
        """
        return self.queue.subscribe(event_types, batch_size)

    def drain(self) -> None:
        """Stop claiming; running handlers may finish, and then the consumers end."""
        self.queue.drain()

    def pause(self, seconds: Seconds) -> None:
        """Claim nothing for `seconds`, at most `longest_wait`, since a dependency of handlers is unavailable."""
        self.queue.pause(seconds)

    async def ack(self, *tokens: Token, session: AsyncSession | None = None) -> bool:
        """Settle deliveries as handled; return False if any token is stale.

        Returns after the commit, which concurrent calls share. With `session`, it joins that transaction, whose
        database effects then happen exactly once: roll back if it returns False, and call `settled` after the
        commit.
        """
        return await self.queue.ack(tokens, session)

    async def nack(
        self, token: Token, error: str | None = None, traceback: str | None = None
    ) -> bool:
        """Settle a delivery as failed: it is retried after a backoff, or dead-lettered after its last attempt.

        Returns False if the token is stale.
        """
        return await self.queue.nack(token, error or "no reason given", traceback)

    async def release(self, *tokens: Token, delay: Seconds = 0.0) -> bool:
        """Return deliveries unhandled without spending an attempt; any worker may claim them after `delay` seconds.

        The delay is at most `longest_wait`. Returns False if the database is unavailable: the leases then expire.
        """
        return await self.queue.release(tokens, delay)

    def release_later(self, *tokens: Token) -> None:
        """Call `release` in the background, for a caller that cannot wait, such as a cancelled task."""
        if tokens:
            self.queue.background.start(self.release(*tokens), "releasing events")

    async def defer_scope(
        self,
        scope: Scope,
        *tokens: Token,
        seconds: Seconds,
        for_capacity: bool = False,
        delay: Seconds = 0.0,
    ) -> None:
        """Claim nothing of a scope for `seconds`, and leave it to other workers.

        Releases these deliveries and the buffered ones of the scope; any worker may claim them after `delay`
        seconds. Use `for_capacity` if this process has enough deliveries of the scope in flight:
        `resume_deferred_scopes` ends such a deferral early.
        """
        await self.queue.defer_scope(scope, tokens, seconds, delay, for_capacity=for_capacity)

    def resume_deferred_scopes(self) -> None:
        """End the deferrals that were made for capacity."""
        self.queue.resume_deferred_scopes()

    def settled(self, *tokens: Token, final: bool = False) -> None:
        """Remove deliveries from those in flight, after a transaction of the caller settled them.

        `final` means that nobody claims them again: they were handled, or are held.
        """
        self.queue.settled(tokens, final=final)

    def announce(self) -> None:
        """Wake subscribers after the caller committed new events in its own transaction."""
        self.connections.notifier.notify()

    # Administration: `subscriber` is this store's unless another is named

    async def add_subscription(
        self, types: list[str] | None = None, *, since: datetime | None = None
    ) -> None:
        """Register this store's subscriber for events from now on, or since a given time.

        The subscription commits first. Transactions that are older do not see it, so this waits until all of
        them have ended, and then adds the deliveries of their events.
        """
        await self.admin.add_subscription(types, since, self.now)

    async def dlq_list(
        self,
        limit: int = 100,
        *,
        subscriber: str | None = None,
        within: Sequence[str] | None = None,
    ) -> list[DeadLetter]:
        """Return the newest dead letters with error, attempts and traceback.

        At `API_MAX_PAGE_BYTES` it logs a warning and returns fewer; `admin.dlq_page` has a cursor for the next page.
        """
        return await self.admin.dlq_list(limit, subscriber, within)

    async def dlq_show(
        self, event_id: str, *, subscriber: str | None = None, within: Sequence[str] | None = None
    ) -> DeadLetter | None:
        """Return the dead letter of one event; None if it has none."""
        return await self.admin.dlq_show(event_id, subscriber, within)

    async def dlq_retry(
        self,
        event_id: str,
        *,
        subscriber: str | None = None,
        within: Sequence[str] | None = None,
        by: str | None = None,
    ) -> bool:
        """Make a dead letter due now with no attempts spent; return False if the event has none."""
        return bool(await self.admin.change_dead_letters("retry", event_id, subscriber, within, by))

    async def dlq_retry_all(
        self,
        *,
        subscriber: str | None = None,
        within: Sequence[str] | None = None,
        by: str | None = None,
    ) -> int:
        """Make all dead letters due now; return their number."""
        return await self.admin.change_dead_letters("retry", None, subscriber, within, by)

    async def dlq_purge(
        self,
        event_id: str | None = None,
        *,
        subscriber: str | None = None,
        within: Sequence[str] | None = None,
        by: str | None = None,
    ) -> int:
        """Delete one dead letter, or all, and keep the events in the log; return their number."""
        return await self.admin.change_dead_letters("purge", event_id, subscriber, within, by)

    async def prune(self, older_than: Seconds, *, by: str | None = None) -> int:
        """Delete events older than `older_than` seconds that have no delivery; return their number.

        It takes many transactions. With `by`, the record commits before the first.
        """
        return await self.admin.prune(older_than, by)

    async def erase(
        self,
        scope: Scope | None = None,
        *,
        where: Mapping[str, object] | None = None,
        by: str | None = None,
    ) -> int:
        """Erase the events of a scope, or those whose payload contains `where`; return the number of events.

        Their content, actions that cover them, dead letters and notes are overwritten; ids, types, times and causes
        stay. Decisions under way can no longer act on them. It takes many transactions. With `by`, the record, which
        has neither the scope nor a value, commits before the first.

        Raises:
            InvalidEvent: both or neither are given, or `where` can match no payload, or all of them.
        """
        return await self.admin.erase(select(scope, where), by)

    async def release_aged(self, age: Seconds) -> int:
        """Drop events that were held for longer than `age` seconds, in all scopes; return their number.

        The same transaction publishes an `agent.dropped` for each scope, which covers the events.
        """
        return await self.scopes.drop_aged(age)

    async def stats(self) -> list[QueueStats]:
        """Return each subscriber's counts; those above `stats.EXACT_COUNT_LIMIT` are estimates."""
        return await self.admin.stats()

    async def status(self, event_id: str) -> list[DeliveryStatus]:
        """Return the status of an event for each subscriber."""
        return await self.admin.status(event_id)
