"""`EventStore`: the one face of the event store."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import cast

import asyncpg
import logfire
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from ...config import Settings, get_settings
from ...core.events import Event
from ...core.types import Scope, Seconds
from .. import database
from ..background import Background
from ..database import (
    COMMIT_TIMEOUT,
    LONG,
    READ_COMMITTED,
    DatabaseUnavailable,
    Fetch,
    after_commit,
    fetch_in,
)
from ..spans import step
from ..waits import bounded
from . import admin, claim, counters, drop, settle
from .admin import DeadLetter, DeliveryStatus, QueueStats
from .claim import Token
from .codec import Limits
from .cursor import Cursor
from .inflight import Delivery
from .lanes import Lane
from .log import Latest, Log, Wanted, readable
from .outage import FIRST_PAUSE, Outage
from .publish import Publisher, insert_events
from .settle import Backoff, Settler
from .subscription import Clock, Owed, Subscription
from .wake import NOTIFY, Wake

NOT_BY_DEFAULT = ["agent.action", "agent.dropped", "lifecycle"]  # what the service itself publishes
QUIET_CHECK: Seconds = 0.05  # how often a new subscription looks whether older transactions ended
DEFER_MARGIN: Seconds = 0.2  # until deferred deliveries are due, so that later ones do not overtake


class EventStore:
    """A durable log with a queue for one subscriber on top.

    No accepted event is lost; each is handled at least once; database effects made with the ack
    happen exactly once; a stale worker cannot ack. Close it when the process ends.
    """

    def __init__(
        self,
        session_factory: async_sessionmaker[AsyncSession],
        pool: asyncpg.Pool,
        *,
        subscriber: str = "agent",
        settings: Settings | None = None,
    ) -> None:
        self.sessions = session_factory
        self.pool = pool
        self.subscriber = subscriber
        self.settings = settings or get_settings()
        self.fetch: Fetch = pool.fetch
        self._patience: Seconds = LONG * self.settings.database_timeout
        self._patiently: Fetch = partial(pool.fetch, timeout=self._patience)
        """For statements that go through many rows."""
        self.stale = 0
        """How many acks, nacks and holds came too late to count."""
        self._backoff = Backoff(
            self.settings.event_retry_base_delay,
            self.settings.event_retry_max_delay,
            self.settings.event_max_attempts,
        )
        self._clock = Clock()
        self._outage = Outage()
        self._drained = False
        self._lanes = {work: self._lane() for work in ("publish", "settle", "memory", "log")}
        # For wake-ups and hand-backs: what a crash of the server undoes is made good in time.
        self._lanes["unflushed"] = self._lane(flushed=False)
        self.by_index: Fetch = self._lanes["memory"].fetch
        """Runs a statement that has an index on one of the store's own connections."""
        self._wake = Wake(self._lanes["unflushed"].fetch, lambda: database.connect(self.settings))
        self.log = Log(self._lanes["log"].fetch, pool, self._wake, self.settings)
        """The log with what this code cannot read, which the store's own methods leave out."""
        self.limits = Limits.of(self.settings)
        """What may be published."""
        self._publisher = Publisher(self._lanes["publish"], self.limits)
        self.settler = Settler(self._lanes["settle"], subscriber, self._after_commit)
        self._subscriptions: set[Subscription] = set()
        self._interruptible: set[asyncpg.Connection] = set()
        self.background = Background()
        """What nobody waits for, and the store still does before it closes."""

    def _lane(self, *, flushed: bool = True) -> Lane:
        return Lane(lambda: database.connect(self.settings, flushed=flushed))

    async def close(self) -> None:
        """Commit what was accepted, send the last wake-ups and stop listening; in bounded time."""
        await self.background.close(COMMIT_TIMEOUT)
        await asyncio.gather(self._publisher.close(), self.settler.close())
        await self._wake.close()
        await asyncio.gather(*(lane.close() for lane in self._lanes.values()))

    def checks(self) -> dict[str, Callable[[], Awaitable[object]]]:
        """Return, by name, what asks each connection of the store's own for an answer."""
        lanes = self._lanes.items()
        claims = {f"claims of {each.subscriber}": each.check for each in self._subscriptions}
        return {**{name: lane.check for name, lane in lanes}, **claims, "listen": self._wake.check}

    @property
    def longest_wait(self) -> Seconds:
        """The longest that a delivery may be put off."""
        return max(self.settings.model_breaker_max_pause, self.settings.event_retry_max_delay)

    def now(self) -> datetime:
        """Return the database's time, as estimated since the last claim."""
        return datetime.now(UTC) + timedelta(seconds=self._clock.offset)

    # Publishing

    async def publish(self, event: Event, *, session: AsyncSession | None = None) -> bool:
        """Accept an event; False if this id was accepted before with the same content.

        With `session` it joins that transaction: your rows and the event commit or vanish together.

        Raises:
            InvalidEvent: it cannot be stored, or its chain of causes is too long.
            EventConflict: its id was published before with other content.
        """
        if session is not None:
            return bool(await self.publish_many([event], session=session))
        new = await self._publisher.publish(event)
        if new:
            self._wake.announce()
        return new

    async def publish_many(
        self, events: Sequence[Event], *, session: AsyncSession | None = None
    ) -> int:
        """Accept all of these events or, on an error, none; return how many were new.

        Raises:
            InvalidEvent: one cannot be stored.
            EventConflict: one has an id that was published before with other content.
        """
        with step("store.publish", count=len(events)):
            if session is not None:
                new = await insert_events(fetch_in(session), events, self.limits)
                await fetch_in(session)(NOTIFY)
                after_commit(session, lambda: counters.published.add(new))
                return new
            async with self.transaction() as fetch:
                new = await insert_events(fetch, events, self.limits)
            if new:
                counters.published.add(new)
                self._wake.announce()
            return new

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Fetch]:
        """Give a transaction for the store's own statements, without a session of yours."""
        async with (
            self.pool.acquire() as connection,
            connection.transaction(isolation=READ_COMMITTED),
        ):
            yield partial(connection.fetch, timeout=self._patience)

    # Consuming

    def subscribe(
        self, event_types: list[str] | None = None, batch_size: int = 100
    ) -> AsyncGenerator[tuple[Event, Token]]:
        """Yield events with the tokens that settle them, until `drain` is called.

        At most `batch_size` events are in flight, claimed and not settled. Their leases are renewed
        while they are buffered or somebody works on them: a delivery is abandoned when nobody begins
        or ends `Memory.settling` in its scope for `EVENT_HANDLER_TIMEOUT` and one lease.
        Close the iterator (`contextlib.aclosing`) to hand the unsettled ones back unspent.
        """
        owed = Owed(self.subscriber, event_types, batch_size, self._backoff)
        # A claim that a crash of the server undoes is made again, under another fence.
        claims = self._lane(flushed=False)
        subscription = Subscription(
            claims, self.by_index, self._wake, self._clock, owed, self.settings
        )
        return subscription.events(self._subscriptions)

    def drain(self) -> None:
        """End the subscriptions: what is being handled may finish, nothing new is begun."""
        self._drained = True
        for subscription in self._subscriptions:
            subscription.stop()

    def pause(self, seconds: Seconds) -> None:
        """Claim nothing for so long, `longest_wait` at most: what handlers need is unavailable."""
        seconds = bounded(seconds, self.longest_wait)
        for subscription in self._subscriptions:
            subscription.pause(seconds)

    async def ack(self, *tokens: Token, session: AsyncSession | None = None) -> bool:
        """Settle deliveries as handled; False if any of them was no longer ours.

        Returns after the commit, which calls that come together share. With `session` it joins that
        transaction, whose database effects then happen exactly once: roll back if the answer is
        False. Call `settled` after that commit.
        """
        if session is not None:
            done = await settle.ack(fetch_in(session), self.subscriber, tokens)
            after_commit(session, lambda: counters.handled.add(len(done)))
            self.note_late([token for token in tokens if token.seq not in done])
            return len(done) == len(tokens)
        return await self.settler.ack(tokens)

    async def nack(
        self, token: Token, error: str | None = None, traceback: str | None = None
    ) -> bool:
        """Settle a delivery as failed: retried after a backoff, or dead-lettered when it was the last.

        Returns False if it was no longer ours.
        """
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

    async def hand_back(self, *tokens: Token, delay: Seconds = 0.0) -> None:
        """Return deliveries unhandled, for any worker to take after `delay`; spends no attempt.

        No delivery waits longer than `longest_wait`.
        """
        delay = bounded(delay, self.longest_wait)
        await claim.hand_back(self._lanes["unflushed"].fetch, self.subscriber, tokens, delay)
        self.settled(*tokens)

    async def release(self, *tokens: Token) -> None:
        """Return deliveries unhandled; while the database is unavailable, let their leases expire."""
        try:
            await self.hand_back(*tokens)
        except DatabaseUnavailable as error:
            self.settled(*tokens)
            logfire.warn("Events were not handed back: {error}", error=repr(error))

    def release_later(self, *tokens: Token) -> None:
        """Do the same for a caller who cannot wait, such as a task that is being cancelled."""
        if tokens:
            self.background.start(self.release(*tokens), "releasing events")

    async def outlast(self, *tokens: Token) -> None:
        """Return deliveries unhandled that met an unavailable database, and claim nothing meanwhile.

        While it stays unavailable this is tried again, so that they spend no attempt; but not for longer
        than a lease, nor once the store is drained: then their leases run out.
        """
        pause = self._outage.pause()
        self.pause(pause)
        deadline = time.monotonic() + self.settings.event_lease
        while True:
            try:
                return await self.hand_back(*tokens, delay=pause)
            except DatabaseUnavailable as error:
                logfire.warn("Events were not handed back: {error}", error=str(error))
            if self._drained or time.monotonic() > deadline:
                return self.settled(*tokens)
            await asyncio.sleep(FIRST_PAUSE)

    async def defer(self, *tokens: Token, seconds: Seconds) -> None:
        """Return deliveries unhandled, and claim nothing of their scopes for so long.

        What else of these scopes was claimed goes back with them, unspent.
        """
        scopes = {token.scope for token in tokens if token.scope}
        also = [
            token
            for each in self._subscriptions
            for scope in scopes
            for token in each.avoid(scope, seconds + DEFER_MARGIN)
        ]
        try:
            await self.hand_back(*tokens, *also, delay=seconds)
        finally:  # nobody has them any more: if this failed, their leases expire
            self.settled(*also)

    async def pass_on(
        self, scope: Scope, *tokens: Token, seconds: Seconds, for_room: bool = False
    ) -> None:
        """Leave a scope to others, and claim nothing of it for so long.

        These deliveries, and what else of the scope was claimed, go back unspent. What is passed on
        `for_room`, because this process has enough of the scope in hand, ends with `look_again`.
        """
        also = [
            token
            for each in self._subscriptions
            for token in each.avoid(scope, seconds, for_room=for_room, busy=not for_room)
        ]
        try:
            await self.hand_back(*tokens, *also)
        finally:  # nobody has them any more: if this failed, their leases expire
            self.settled(*also)

    def look_again(self) -> None:
        """Claim of scopes again that were passed on for room."""
        for subscription in self._subscriptions:
            subscription.look_again()

    def settled(self, *tokens: Token) -> None:
        """Note that tokens were settled in a transaction of the caller's, which frees capacity."""
        for subscription in self._subscriptions:
            subscription.settled(tokens)

    def begun(self, *tokens: Token) -> None:
        """Note that somebody works on deliveries, for which their leases are renewed."""
        for subscription in self._subscriptions:
            subscription.begun(tokens)

    def ended(self, *tokens: Token) -> None:
        """Note that somebody no longer works on deliveries."""
        for subscription in self._subscriptions:
            subscription.ended(tokens)

    def consumer_of(self, *tokens: Token) -> Subscription | None:
        """Return the subscription in which these deliveries are in flight, if there is one."""
        return next((each for each in self._subscriptions if each.has(tokens)), None)

    def in_flight(self) -> list[Delivery]:
        """Return what this process has claimed and not settled."""
        return [each for subscription in self._subscriptions for each in subscription.in_flight()]

    @asynccontextmanager
    async def interruptible(self, session: AsyncSession) -> AsyncGenerator[None]:
        """Let `release_in_flight` break off the session's transaction during the block."""
        raw = await (await session.connection()).get_raw_connection()
        connection = cast("asyncpg.Connection", raw.driver_connection)
        self._interruptible.add(connection)
        try:
            yield
        finally:
            self._interruptible.discard(connection)

    async def release_in_flight(self) -> bool:
        """Return everything that is in flight unhandled, even what somebody still works on.

        For a process that ends with decisions that do not. Their transactions, which have the rows,
        are broken off. Returns False if the database did not release everything.
        """
        for connection in self._interruptible:
            connection.terminate()
        return all([await subscription.release() for subscription in list(self._subscriptions)])

    def announce(self) -> None:
        """Wake subscribers after a commit that the store did not make itself."""
        self._wake.announce()

    def _after_commit(self, tokens: list[Token], late: list[Token]) -> None:
        self.settled(*tokens)
        self.note_late(late)

    def note_late(self, late: Sequence[Token]) -> None:
        """Count tokens that settled nothing, since another worker has their events."""
        if late:
            self.stale += len(late)
            counters.stale.add(len(late))
            seqs = [token.seq for token in late]
            logfire.warn("Settled too late, another worker has them: {seqs}", seqs=seqs)

    async def add_subscription(
        self, types: list[str] | None = None, *, since: datetime | None = None
    ) -> None:
        """Register this store's subscriber, from now or from a given time.

        The row commits first; events that older transactions still publish without seeing it are
        filled in once all of those have ended, so that none slips between.
        """
        excluded = NOT_BY_DEFAULT if types is None else []
        row = (await self.fetch(admin.ADD_SUBSCRIPTION, self.subscriber, types, excluded))[0]
        if not row["created"] and since is None:
            return
        begin = since or datetime.now(UTC) + timedelta(seconds=self._clock.offset)
        while not (await self.fetch(admin.ENDED, row["tx"]))[0]["ended"]:  # noqa: ASYNC110 - the server tells nobody when a transaction ends
            await asyncio.sleep(QUIET_CHECK)
        if await self._patiently(admin.BACKFILL, self.subscriber, begin):
            self._wake.announce()

    # Reading the log

    async def replay(
        self,
        start: datetime,
        end: datetime | None = None,
        event_types: list[str] | None = None,
        *,
        scope: Scope | None = None,
    ) -> AsyncGenerator[Event]:
        """Yield past events in order of `(timestamp, seq)`, in constant memory; changes nothing."""
        async with aclosing(self.log.replay(start, end, Wanted(event_types, scope))) as found:
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
        """Yield events as they commit, from `after` or from now, each with a cursor to resume from.

        A reader that resumes gets each event once, however transactions overlapped.
        """
        async with aclosing(self.log.follow(after, Wanted(event_types, scope))) as found:
            async for cursor, stored in found:
                if event := readable(stored):
                    yield cursor, event

    async def end(self) -> Cursor:
        """Return the cursor from which `follow` yields what becomes visible from now on."""
        return await self.log.end()

    async def read_on(
        self, cursor: Cursor, event_types: list[str] | None = None, scope: Scope | None = None
    ) -> AsyncGenerator[tuple[Cursor, Event | None]]:
        """Yield what the log has after a cursor, up to now; at last None and the cursor of now."""
        async with aclosing(self.log.read_on(cursor, Wanted(event_types, scope))) as found:
            async for place, stored in found:
                if (event := readable(stored)) or stored is None:
                    yield place, event

    @asynccontextmanager
    async def waking(self) -> AsyncGenerator[asyncio.Event]:
        """Give an event that is set whenever something may have been published."""
        changed = self._wake.subscribe()
        try:
            yield changed
        finally:
            self._wake.unsubscribe(changed)

    async def find(self, event_id: str) -> Event | None:
        """Return one event of the log."""
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
        found = await self.log.page(Wanted(event_types, scope), before, limit)
        return [event for stored in found if (event := readable(stored))]

    async def latest(
        self,
        event_types: list[str] | None = None,
        *,
        scope: Scope | None = None,
        since: datetime,
        limit: int = 100,
    ) -> Latest:
        """Return the newest events that were recorded since then, newest first.

        It walks the log backwards, for at most `LATEST_MOST` events of any kind; `complete` tells
        whether that was enough.
        """
        return await self.log.latest(Wanted(event_types, scope), since, limit)

    # Looking after the queue

    # Dead letters are this store's subscriber's, unless another `subscriber` is named.

    async def subscribers(self) -> list[str]:
        """Return the names of all subscribers."""
        return [row["name"] for row in await self.fetch(admin.SUBSCRIBERS)]

    async def dlq_list(
        self, limit: int = 100, *, subscriber: str | None = None
    ) -> list[DeadLetter]:
        """Return the newest dead letters with error, attempts and traceback."""
        return await admin.dead_letters(self.fetch, subscriber or self.subscriber, limit)

    async def dlq_show(self, event_id: str, *, subscriber: str | None = None) -> DeadLetter | None:
        """Return the dead letter of one event."""
        whose = subscriber or self.subscriber
        found = await admin.dead_letters(self.fetch, whose, 1, event_id)
        return found[0] if found else None

    async def dlq_retry(self, event_id: str, *, subscriber: str | None = None) -> bool:
        """Make a dead letter due again with all its attempts; False if there is none."""
        return bool(await self._retry(event_id, subscriber))

    async def dlq_retry_all(self, *, subscriber: str | None = None) -> int:
        """Make all dead letters due again; return how many there were."""
        return await self._retry(None, subscriber)

    async def dlq_purge(self, event_id: str | None = None, *, subscriber: str | None = None) -> int:
        """Drop one dead letter, or all; the log keeps the events. Return how many."""
        return await admin.purge_dead(self._patiently, subscriber or self.subscriber, event_id)

    async def prune(self, older_than: Seconds) -> int:
        """Delete events from the log that are older and owed to nobody; return how many."""
        return sum([count async for count in admin.prune(self._patiently, older_than)])

    async def recall(self) -> int:
        """Make due what an earlier version put off for longer than `longest_wait`; return how many."""
        return await claim.recall(self._patiently, self.subscriber, self.longest_wait)

    async def release_aged(self, age: Seconds) -> int:
        """Drop what has been held for longer than `age`, in quiet scopes too; return how many.

        An `agent.dropped` for each scope, published in the same transaction, names the events.
        """
        reason, count = f"held for longer than CONTEXT_MAX_AGE ({age:g} s)", 0
        after: drop.ToDrop | None = None
        while True:
            async with self._by_index_in_transaction() as fetch:
                held = await drop.aged(fetch, self.subscriber, age, after)
            if not held:
                return count
            count += (await self.drop_held(held, reason))[0]
            after = held[-1]

    async def drop_held(
        self, held: Sequence[drop.ToDrop], reason: str
    ) -> tuple[int, dict[Scope, int]]:
        """Drop held deliveries for a reason; return how many, and the new versions of their scopes."""
        async with self._by_index_in_transaction() as fetch:
            published, versions = await drop.drop(fetch, self.subscriber, held, reason, self.limits)
        if published:
            drop.report(published)
            self._wake.announce()
        return sum(len(event.covers) for event in published), versions

    @asynccontextmanager
    async def _by_index_in_transaction(self) -> AsyncGenerator[Fetch]:
        """Give a transaction whose statements go by index and leave no spans."""
        with logfire.suppress_instrumentation():
            async with (
                self.pool.acquire() as connection,
                connection.transaction(isolation=READ_COMMITTED),
            ):
                await connection.execute(drop.BY_INDEX)
                yield partial(connection.fetch, timeout=self._patience)

    async def stats(self) -> list[QueueStats]:
        """Return what each subscriber is owed."""
        return await admin.stats(self.fetch)

    async def status(self, event_id: str) -> list[DeliveryStatus]:
        """Return how far an event has come with each subscriber."""
        return await admin.status(self.fetch, event_id)

    async def _retry(self, event_id: str | None, subscriber: str | None) -> int:
        count = await admin.retry_dead(self._patiently, subscriber or self.subscriber, event_id)
        self._wake.announce()
        return count
