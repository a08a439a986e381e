"""The public interface of the event store: `EventStore`."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Literal, cast
from uuid import uuid4

import asyncpg
import logfire

from ...config import Settings, get_settings
from .. import database
from ..database import (
    COMMIT_TIMEOUT,
    LONG_STATEMENT_FACTOR,
    READ_COMMITTED,
    DatabaseUnavailable,
    Fetch,
    after_commit,
    fetch_in,
)
from ..process.background import BackgroundTasks
from ..telemetry.spans import step
from ..waits import bounded
from . import admin, claim, counters, drop, erase, operators, settle
from .codec import Limits
from .consumer import Clock, Consumer, ConsumerConfig
from .dead_letters import DeadLetterFilter, read_dead_letters
from .dedicated import DedicatedConnection
from .log import EventFilter, Latest, Log, readable
from .notifier import NOTIFY, Notifier
from .old_names import OldNames
from .outage_backoff import FIRST_PAUSE, OutageBackoff
from .publish import Publisher, insert_events
from .reads import make_readers, read_timeout
from .requeues import Requeues
from .settle import Backoff, Settler

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

    from ...core.events import Event
    from ...core.units import Scope, Seconds
    from .admin import DeliveryStatus, QueueStats
    from .claim import Token
    from .cursor import Cursor
    from .dead_letters import DeadLetter, DeadLetterCursor, DeadLetterPage
    from .inflight import Delivery

# The events that the service itself publishes about its work.
DEFAULT_EXCLUDED_TYPES = ["agent.action", "agent.dropped", "lifecycle", "operator.action"]
DEDICATED = ("publish", "settle", "memory", "follow", "catch up")
"""The jobs that have a dedicated connection each."""
TRANSACTION_POLL: Seconds = 0.05  # between checks that older transactions ended
MAX_TRANSACTION_TRIES = 5  # of a batch that deadlocks with others with the same ids
DEFER_MARGIN: Seconds = 0.2  # so that later deliveries do not overtake deferred ones


class EventStore(OldNames):
    """A durable log, and on top of it the queue of one subscriber.

    No accepted event is lost; each is handled at least once; database effects made with the ack
    happen exactly once; a stale worker cannot ack. Call `close` when the process ends.
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
        self.settings = settings or get_settings()
        self.fetch: Fetch = pool.fetch
        self._long_timeout: Seconds = LONG_STATEMENT_FACTOR * self.settings.database_timeout
        self.long_fetch: Fetch = partial(pool.fetch, timeout=self._long_timeout)
        """Runs statements that read many rows, with ten times the usual time limit."""
        self.stale = 0
        """The number of stale acks, nacks and holds."""
        self._backoff = Backoff(
            self.settings.event_retry_base_delay,
            self.settings.event_retry_max_delay,
            self.settings.event_max_attempts,
        )
        self._clock = Clock()
        self._outage_backoff = OutageBackoff()
        self._application_name = f"{claim_connection_prefix(subscriber)}{uuid4().hex[:8]}"
        """The `application_name` of the connections that claim."""
        self.requeues = Requeues()
        """When deliveries of each scope last went back to the queue, so that its order must be checked."""
        self._drained = False
        self._dedicated = {work: self._dedicate() for work in DEDICATED}
        self._dedicated["find"] = self._dedicate(limit=read_timeout(self.settings))
        # For wake-ups and releases: if a crash of the server loses one, a fallback check or an expired lease
        # makes up for it.
        self._dedicated["unsynced"] = self._dedicate(synchronous_commit=False)
        self.by_index: Fetch = self._dedicated["memory"].fetch
        """Runs a statement that an index supports, on a dedicated connection."""
        self._notifier = Notifier(
            self._dedicated["unsynced"].fetch, lambda: database.connect(self.settings)
        )
        self._readers = make_readers(pool, self._dedicated, self.settings)
        self.log = Log(self._readers, pool, self._notifier, self.settings)
        """Reads the log with unreadable events, which the methods of the store leave out."""
        self.limits = Limits.of(self.settings)
        """The limits of published events."""
        self._publisher = Publisher(self._dedicated["publish"], self.limits)
        on_commit = partial(self._after_commit, final=True)
        self.settler = Settler(self._dedicated["settle"], subscriber, on_commit)
        self._consumers: set[Consumer] = set()
        self._interruptible: set[asyncpg.Connection] = set()
        self.background = BackgroundTasks()
        """Tasks that no caller waits for; `close` waits for them."""

    @property
    def sessions(self) -> async_sessionmaker[AsyncSession]:
        """The session factory for the application's tables; stores of commands have none."""
        assert self._sessions is not None, "this store was opened without sessions"  # noqa: S101 - narrows the type
        return self._sessions

    def _dedicate(
        self, *, synchronous_commit: bool = True, name: str = "agent", limit: Seconds | None = None
    ) -> DedicatedConnection:
        connect = partial(
            database.connect, self.settings, synchronous_commit=synchronous_commit, name=name
        )
        return DedicatedConnection(connect, limit)

    async def close(self) -> None:
        """Commit all submitted events and acks, send the last wake-up and close the connections, in bounded time."""
        await self.background.close(COMMIT_TIMEOUT)
        await asyncio.gather(self._publisher.close(), self.settler.close())
        await self._notifier.close()
        await asyncio.gather(*(connection.close() for connection in self._dedicated.values()))

    def checks(self) -> dict[str, Callable[[], Awaitable[object]]]:
        """Return a health check for each dedicated connection, by name."""
        connections = self._dedicated.items()
        claims = {f"claims of {each.subscriber}": each.check for each in self._consumers}
        return {
            **{name: connection.check for name, connection in connections},
            **claims,
            "listen": self._notifier.check,
        }

    @property
    def longest_wait(self) -> Seconds:
        """The longest time, in seconds, that a delivery may be deferred or wait for a retry."""
        return max(self.settings.model_breaker_max_pause, self.settings.event_retry_max_delay)

    def now(self) -> datetime:
        """Return the database's time, estimated from this machine's clock and the last claim."""
        return datetime.now(UTC) + timedelta(seconds=self._clock.offset)

    # Publishing

    async def publish(self, event: Event, *, session: AsyncSession | None = None) -> bool:
        """Accept an event; return False if it was published before with the same content.

        With `session`, it joins that transaction: your rows and the event commit or roll back together.

        Raises:
            InvalidEvent: it cannot be stored, or its chain of causes is too long.
            EventConflict: its id was published before with other content.
        """
        if session is not None:
            return bool(await self.publish_many([event], session=session))
        new = await self._publisher.publish(event)
        if new:
            self._notifier.notify()
        return new

    async def publish_many(
        self, events: Sequence[Event], *, session: AsyncSession | None = None, by: str | None = None
    ) -> int:
        """Accept all of these events or, on an error, none; return how many were new.

        With `by`, the name of an operator, an `operator.action` records the publication.

        Raises:
            InvalidEvent: an event cannot be stored.
            EventConflict: an id was published before with other content.
        """
        with step("store.publish", count=len(events)):
            if session is not None:
                new = await insert_events(fetch_in(session), events, self.limits)
                await fetch_in(session)(NOTIFY)
                after_commit(session, lambda: counters.published.add(new))
                return new
            new = await self._insert(events, by)
            if new:
                counters.published.add(new + (by is not None))
                self._notifier.notify()
            return new

    async def _insert(self, events: Sequence[Event], by: str | None) -> int:
        """Insert events in a transaction; retry it after a deadlock with one that has the same ids."""
        for left in reversed(range(MAX_TRANSACTION_TRIES)):
            try:
                async with self._in_transaction() as fetch:
                    new = await insert_events(fetch, events, self.limits)
                    if new and by is not None:
                        record = operators.publishing_record(by, events, new)
                        await insert_events(fetch, [record], self.limits)
                    return new
            except asyncpg.DeadlockDetectedError:
                if not left:
                    raise
        raise AssertionError  # unreachable: the last try raised or returned

    # Consuming

    def subscribe(
        self, event_types: list[str] | None = None, batch_size: int = 100
    ) -> AsyncGenerator[tuple[Event, Token]]:
        """Yield events with the tokens that settle them, until `drain` is called.

        At most `batch_size` events are in flight: claimed and not settled. Their leases are renewed while they
        are buffered or being handled. A delivery is abandoned if no block of `Memory.settling` starts or ends in
        its scope for `EVENT_HANDLER_TIMEOUT` and one lease.

        Close the iterator (`contextlib.aclosing`) to release the unsettled ones without spending an attempt.
        """
        config = ConsumerConfig(
            self.subscriber, event_types, batch_size, self._backoff, self.longest_wait
        )
        # Asynchronous commits: if a crash of the server loses a claim, the event is claimed again.
        claims = self._dedicate(synchronous_commit=False, name=self._application_name)
        consumer = Consumer(
            claims, self.by_index, self._notifier, self._clock, config, self.requeues, self.settings
        )
        return consumer.events(self._consumers)

    def drain(self) -> None:
        """Stop claiming; running handlers may finish, and then the consumers end."""
        self._drained = True
        for consumer in self._consumers:
            consumer.stop()

    def pause(self, seconds: Seconds) -> None:
        """Claim nothing for `seconds`, at most `longest_wait`, since a dependency of handlers is unavailable."""
        seconds = bounded(seconds, self.longest_wait)
        for consumer in self._consumers:
            consumer.pause(seconds)

    async def ack(self, *tokens: Token, session: AsyncSession | None = None) -> bool:
        """Settle deliveries as handled; return False if any token is stale.

        Returns after the commit, which concurrent calls share. With `session`, it joins that transaction, whose
        database effects then happen exactly once: roll back if it returns False, and call `settled` after the
        commit.
        """
        if session is not None:
            done = await settle.ack(fetch_in(session), self.subscriber, tokens)
            after_commit(session, lambda: counters.handled.add(len(done)))
            self.note_stale([token for token in tokens if token.seq not in done])
            return len(done) == len(tokens)
        return await self.settler.ack(tokens)

    async def nack(
        self, token: Token, error: str | None = None, traceback: str | None = None
    ) -> bool:
        """Settle a delivery as failed: it is retried after a backoff, or dead-lettered after its last attempt.

        Returns False if the token is stale.
        """
        self.requeues.note(token)
        dead = await settle.nack(
            self.by_index,
            self.subscriber,
            token,
            error or "no reason given",
            traceback,
            self._backoff,
        )
        self._after_commit([token], [token] if dead is None else [])
        if dead is not None:
            (counters.dead if dead else counters.failed).add(1)
        if dead:
            logfire.error("Event at {seq} was dead-lettered: {error}", seq=token.seq, error=error)
        return dead is not None

    async def release(self, *tokens: Token, delay: Seconds = 0.0) -> bool:
        """Return deliveries unhandled without spending an attempt; any worker may claim them after `delay` seconds.

        The delay is at most `longest_wait`. Returns False if the database is unavailable: the leases then expire.
        """
        try:
            await self._release(*tokens, delay=delay)
        except DatabaseUnavailable as error:
            self.settled(*tokens)
            logfire.warn("Deliveries were not released: {error}", error=repr(error))
            return False
        return True

    async def _release(self, *tokens: Token, delay: Seconds = 0.0) -> None:
        delay = bounded(delay, self.longest_wait)
        for token in tokens:
            self.requeues.note(token)
        await claim.release(self._dedicated["unsynced"].fetch, self.subscriber, tokens, delay)
        self.settled(*tokens)

    def release_later(self, *tokens: Token) -> None:
        """Call `release` in the background, for a caller that cannot wait, such as a cancelled task."""
        if tokens:
            self.background.start(self.release(*tokens), "releasing events")

    async def release_when_available(self, *tokens: Token) -> None:
        """Release deliveries whose handling failed because the database was unavailable, and pause claims.

        Retries the release until the database is available, so that they spend no attempt. It gives up after a
        lease, or once the store is drained: the leases then expire.
        """
        pause = self._outage_backoff.next_pause()
        self.pause(pause)
        deadline = time.monotonic() + self.settings.event_lease
        while True:
            try:
                return await self._release(*tokens, delay=pause)
            except DatabaseUnavailable as error:
                logfire.warn("Deliveries were not released: {error}", error=str(error))
            if self._drained or time.monotonic() > deadline:
                return self.settled(*tokens)
            await asyncio.sleep(FIRST_PAUSE)

    async def defer(self, *tokens: Token, seconds: Seconds) -> None:
        """Release deliveries, and claim nothing of their scopes for `seconds`.

        Other buffered deliveries of these scopes are released, too. None of them spends an attempt.
        """
        scopes = {token.scope for token in tokens if token.scope}
        also = [
            token
            for each in self._consumers
            for scope in scopes
            for token in each.defer(scope, seconds + DEFER_MARGIN)
        ]
        try:
            await self._release(*tokens, *also, delay=seconds)
        finally:  # no longer in flight: if this failed, their leases expire
            self.settled(*also)

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
        also = [
            token
            for each in self._consumers
            for token in each.defer(
                scope, seconds, for_capacity=for_capacity, busy=not for_capacity
            )
        ]
        try:
            await self._release(*tokens, *also, delay=delay)
        finally:  # no longer in flight: if this failed, their leases expire
            self.settled(*also)

    def resume_deferred_scopes(self) -> None:
        """End the deferrals that were made for capacity."""
        for consumer in self._consumers:
            consumer.resume_deferred_scopes()

    def settled(self, *tokens: Token, final: bool = False) -> None:
        """Remove deliveries from those in flight, after a transaction of the caller settled them.

        `final` means that nobody claims them again: they were handled, or are held.
        """
        for consumer in self._consumers:
            consumer.settled(tokens, final=final)

    def handler_started(self, *tokens: Token) -> None:
        """Record that a handler works on deliveries, so that their leases are renewed."""
        for consumer in self._consumers:
            consumer.handler_started(tokens)

    def handler_ended(self, *tokens: Token) -> None:
        """Record that a handler no longer works on deliveries."""
        for consumer in self._consumers:
            consumer.handler_ended(tokens)

    def consumer_of(self, *tokens: Token) -> Consumer | None:
        """Return the consumer that has one of these deliveries in flight, or None."""
        return next((each for each in self._consumers if each.has(tokens)), None)

    def in_flight(self) -> list[Delivery]:
        """Return the deliveries that this process has in flight."""
        return [each for consumer in self._consumers for each in consumer.in_flight()]

    @asynccontextmanager
    async def interruptible(self, session: AsyncSession) -> AsyncGenerator[None]:
        """Allow `release_in_flight` to abort the session's transaction during the block."""
        raw = await (await session.connection()).get_raw_connection()
        connection = cast("asyncpg.Connection", raw.driver_connection)
        self._interruptible.add(connection)
        try:
            yield
        finally:
            self._interruptible.discard(connection)

    async def release_in_flight(self) -> bool:
        """Release everything in flight, even deliveries that are being handled.

        For a process that must end before its decisions do. It aborts their transactions, which have locked the
        rows. Returns False if the database did not release everything.
        """
        for connection in self._interruptible:
            connection.terminate()
        return all([await consumer.release() for consumer in list(self._consumers)])

    def announce(self) -> None:
        """Wake subscribers after the caller committed new events in its own transaction."""
        self._notifier.notify()

    def _after_commit(
        self, tokens: list[Token], stale: list[Token], *, final: bool = False
    ) -> None:
        self.settled(*tokens, final=final)
        self.note_stale(stale)

    def note_stale(self, stale: Sequence[Token]) -> None:
        """Count and log stale tokens."""
        if stale:
            self.stale += len(stale)
            counters.stale.add(len(stale))
            seqs = [token.seq for token in stale]
            logfire.warn("Stale tokens, another worker has the events: {seqs}", seqs=seqs)

    async def add_subscription(
        self, types: list[str] | None = None, *, since: datetime | None = None
    ) -> None:
        """Register this store's subscriber for events from now on, or since a given time.

        The subscription commits first. Transactions that are older do not see it, so this waits until all of
        them have ended, and then adds the deliveries of their events.
        """
        excluded = DEFAULT_EXCLUDED_TYPES if types is None else []
        row = (await self.fetch(admin.ADD_SUBSCRIPTION, self.subscriber, types, excluded))[0]
        if not row["created"] and since is None:
            return
        begin = since or datetime.now(UTC) + timedelta(seconds=self._clock.offset)
        while not (await self.fetch(admin.TRANSACTION_ENDED, row["tx"]))[0]["ended"]:  # noqa: ASYNC110 - the server sends no signal when a transaction ends
            await asyncio.sleep(TRANSACTION_POLL)
        if await self.long_fetch(admin.BACKFILL, self.subscriber, begin):
            self._notifier.notify()

    # Reading the log

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

    @asynccontextmanager
    async def waking(self) -> AsyncGenerator[asyncio.Event]:
        """Provide an `asyncio.Event` that is set whenever events may have been published."""
        changed = self._notifier.subscribe()
        try:
            yield changed
        finally:
            self._notifier.unsubscribe(changed)

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

    # Administration

    # `subscriber` is this store's unless another is named.

    async def subscribers(self) -> list[str]:
        """Return the names of all subscribers."""
        return [row["name"] for row in await self._readers.find(admin.SUBSCRIBERS)]

    # `within` selects dead letters whose scope begins with one of these prefixes. With `by`, the name of an
    # operator, an `operator.action` records the change in the same transaction.

    async def dlq_list(
        self,
        limit: int = 100,
        *,
        subscriber: str | None = None,
        within: Sequence[str] | None = None,
    ) -> list[DeadLetter]:
        """Return the newest dead letters with error, attempts and traceback.

        At `API_MAX_PAGE_BYTES` it logs a warning and returns fewer; `dlq_page` has a cursor for the next page.
        """
        page = await self.dlq_page(limit, subscriber=subscriber, within=within)
        if page.stopped_at == "bytes":
            logfire.warn(
                "The list ends after {count} dead letters: they have API_MAX_PAGE_BYTES ({most})",
                count=len(page.letters),
                most=self.settings.api_max_page_bytes,
            )
        return page.letters

    async def dlq_page(
        self,
        limit: int = 100,
        *,
        before: DeadLetterCursor | None = None,
        subscriber: str | None = None,
        within: Sequence[str] | None = None,
    ) -> DeadLetterPage:
        """Return the newest dead letters before a cursor, in at most `API_MAX_PAGE_BYTES`."""
        which, max_bytes = self._dead(None, subscriber, within), self.settings.api_max_page_bytes
        return await read_dead_letters(self._readers.list, which, limit, max_bytes, before)

    async def dlq_show(
        self, event_id: str, *, subscriber: str | None = None, within: Sequence[str] | None = None
    ) -> DeadLetter | None:
        """Return the dead letter of one event; None if it has none."""
        which, max_bytes = (
            self._dead(event_id, subscriber, within),
            self.settings.api_max_page_bytes,
        )
        found = await read_dead_letters(self._readers.list, which, 1, max_bytes)
        return found.letters[0] if found.letters else None

    async def dlq_retry(
        self,
        event_id: str,
        *,
        subscriber: str | None = None,
        within: Sequence[str] | None = None,
        by: str | None = None,
    ) -> bool:
        """Make a dead letter due now with no attempts spent; return False if the event has none."""
        which = self._dead(event_id, subscriber, within)
        return bool(await self._change_dead_letters("retry", which, by))

    async def dlq_retry_all(
        self,
        *,
        subscriber: str | None = None,
        within: Sequence[str] | None = None,
        by: str | None = None,
    ) -> int:
        """Make all dead letters due now; return their number."""
        return await self._change_dead_letters("retry", self._dead(None, subscriber, within), by)

    async def dlq_purge(
        self,
        event_id: str | None = None,
        *,
        subscriber: str | None = None,
        within: Sequence[str] | None = None,
        by: str | None = None,
    ) -> int:
        """Delete one dead letter, or all, and keep the events in the log; return their number."""
        return await self._change_dead_letters(
            "purge", self._dead(event_id, subscriber, within), by
        )

    async def dlq_count(self, event_id: str | None = None, *, subscriber: str | None = None) -> int:
        """Return how many dead letters `dlq_purge` would delete."""
        which = self._dead(event_id, subscriber, None)
        return (await self.long_fetch(admin.COUNT_DEAD, *which))[0]["count"]

    async def count_prunable(self, older_than: Seconds) -> int:
        """Return how many events `prune` would delete."""
        return (await self.long_fetch(admin.COUNT_PRUNABLE, older_than))[0]["count"]

    async def prune(self, older_than: Seconds, *, by: str | None = None) -> int:
        """Delete events older than `older_than` seconds that have no delivery; return their number.

        It takes many transactions. With `by`, the record commits before the first.
        """
        if by is not None:
            await self._record(operators.pruning_record(by, older_than))
        return sum([count async for count in admin.prune(self.long_fetch, older_than)])

    async def count_scope_events(self, scope: Scope) -> int:
        """Return how many events `erase` would delete."""
        return await erase.count_events(self.long_fetch, scope)

    async def erase(self, scope: Scope, *, by: str | None = None) -> int:
        """Delete a scope's events, their deliveries and its notes; return the number of events.

        Decisions under way can no longer act on them. It takes many transactions. With `by`, the record, which
        does not name the scope, commits before the first.
        """
        if by is not None:
            count = await self.count_scope_events(scope)
            if count:
                await self._record(operators.erasing_record(by, count))
        return sum([count async for count in erase.erase(self.long_fetch, scope)])

    async def end_overlong_waits(self) -> int:
        """Make deliveries due now that would wait for more than `longest_wait`; return their number."""
        return await claim.end_overlong_waits(self.long_fetch, self.subscriber, self.longest_wait)

    async def release_aged(self, age: Seconds) -> int:
        """Drop events that were held for longer than `age` seconds, in all scopes; return their number.

        The same transaction publishes an `agent.dropped` for each scope, which covers the events.
        """
        reason, count = f"held for longer than CONTEXT_MAX_AGE ({age:g} s)", 0
        after: drop.HeldDeliveries | None = None
        while True:
            async with self._by_index_in_transaction() as fetch:
                held = await drop.find_aged(fetch, self.subscriber, age, after)
            if not held:
                return count
            count += (await self.drop_held(held, reason))[0]
            after = held[-1]

    async def drop_held(
        self, held: Sequence[drop.HeldDeliveries], reason: str
    ) -> tuple[int, dict[Scope, int]]:
        """Drop held deliveries; return their number and the new version of each scope."""
        async with self._by_index_in_transaction() as fetch:
            published, versions = await drop.drop(fetch, self.subscriber, held, reason, self.limits)
        if published:
            drop.report(published)
            self._notifier.notify()
        return sum(len(event.covers) for event in published), versions

    async def _record(self, action: Event) -> None:
        """Publish the record of what an operator is about to do."""
        async with self._in_transaction() as fetch:
            await insert_events(fetch, [action], self.limits)
        counters.published.add(1)

    @asynccontextmanager
    async def _in_transaction(self, settings: str | None = None) -> AsyncGenerator[Fetch]:
        """Open a transaction for statements that read many rows; `settings` are `SET LOCAL` statements."""
        async with (
            self.pool.acquire() as connection,
            connection.transaction(isolation=READ_COMMITTED),
        ):
            if settings is not None:
                await connection.execute(settings)
            yield partial(connection.fetch, timeout=self._long_timeout)

    @asynccontextmanager
    async def _by_index_in_transaction(self) -> AsyncGenerator[Fetch]:
        """Open a transaction whose statements use indexes and have no spans."""
        with logfire.suppress_instrumentation():
            async with self._in_transaction(drop.BY_INDEX) as fetch:
                yield fetch

    async def stats(self) -> list[QueueStats]:
        """Return each subscriber's counts; those above `admin.EXACT_COUNT_LIMIT` are estimates."""
        return await admin.stats(self._readers.find, self._readers.estimate)

    async def other_workers(self) -> int:
        """Return how many other stores, in this process or others, claim for this subscriber."""
        [row] = await self._readers.find(
            admin.COUNT_OTHER_WORKERS,
            claim_connection_prefix(self.subscriber),
            self._application_name,
        )
        return row["others"]

    async def status(self, event_id: str) -> list[DeliveryStatus]:
        """Return the status of an event for each subscriber."""
        return await admin.status(self._readers.find, event_id)

    def _dead(
        self, event_id: str | None, subscriber: str | None, within: Sequence[str] | None
    ) -> DeadLetterFilter:
        return DeadLetterFilter(subscriber or self.subscriber, event_id, within)

    async def _change_dead_letters(
        self, action: Literal["retry", "purge"], which: DeadLetterFilter, by: str | None
    ) -> int:
        """Retry or purge dead letters, and record the operator; return their number."""
        change = admin.retry_dead if action == "retry" else admin.purge_dead
        async with self._in_transaction() as fetch:
            done = await change(fetch, which)
            if done and by is not None:
                record = operators.dead_letter_record(action, by, which, done)
                await insert_events(fetch, [record], self.limits)
        counters.published.add(int(bool(done) and by is not None))
        self._notifier.notify()
        return len(done)


def claim_connection_prefix(subscriber: str) -> str:
    """Return the prefix of the `application_name` of connections that claim for a subscriber."""
    return f"claims of {subscriber[:40]} "  # the server keeps 63 characters
