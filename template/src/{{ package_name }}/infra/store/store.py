"""`EventStore`: the one face of the event store."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta

import asyncpg
import logfire
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from ...config import Settings, get_settings
from ...core.events import Event
from ...core.types import Scope, Seconds
from .. import database
from ..database import Fetch, after_commit, fetch_in
from ..waits import bounded
from . import admin, claim, counters, hold, log, settle
from .admin import DeadLetter, DeliveryStatus, QueueStats
from .claim import Token
from .cursor import Cursor
from .lanes import Lane
from .log import Wanted
from .publish import Publisher, insert_events
from .settle import Backoff, Settler
from .subscription import Clock, Owed, Rest, Subscription
from .wake import NOTIFY, Wake

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
        self.stale = 0
        """How many acks, nacks and holds came too late to count."""
        self._backoff = Backoff(
            self.settings.event_retry_base_delay,
            self.settings.event_retry_max_delay,
            self.settings.event_max_attempts,
        )
        self._clock = Clock()
        self._lanes = {work: self._lane() for work in ("publish", "settle", "memory", "log")}
        # For wake-ups and hand-backs: what a crash of the server undoes is made good in time.
        self._lanes["unflushed"] = self._lane(flushed=False)
        self.by_index: Fetch = self._lanes["memory"].fetch
        """Runs a statement that has an index on one of the store's own connections."""
        self._read_log: Fetch = self._lanes["log"].fetch
        self._wake = Wake(self._lanes["unflushed"].fetch, lambda: database.connect(self.settings))
        self._publisher = Publisher(self._lanes["publish"], self.settings.event_max_depth)
        self.settler = Settler(self._lanes["settle"], subscriber, self._after_commit)
        self._subscriptions: set[Subscription] = set()

    def _lane(self, *, flushed: bool = True) -> Lane:
        return Lane(lambda: database.connect(self.settings, flushed=flushed))

    async def close(self) -> None:
        """Commit what was accepted, send the last wake-ups and stop listening."""
        await self._publisher.close()
        await self.settler.close()
        await self._wake.close()
        for lane in self._lanes.values():
            await lane.close()

    @property
    def longest_wait(self) -> Seconds:
        """The longest that a delivery may be put off, whoever asks for it."""
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
        with logfire.span("store.publish", count=len(events), _level="debug"):
            deepest = self.settings.event_max_depth
            if session is not None:
                new = await insert_events(fetch_in(session), events, deepest)
                await fetch_in(session)(NOTIFY)
                after_commit(session, lambda: counters.published.add(new))
                return new
            async with self.pool.acquire() as connection, connection.transaction():
                new = await insert_events(connection.fetch, events, deepest)
            if new:
                counters.published.add(new)
                self._wake.announce()
            return new

    # Consuming

    def subscribe(
        self, event_types: list[str] | None = None, batch_size: int = 100
    ) -> AsyncGenerator[tuple[Event, Token]]:
        """Yield events with the tokens that settle them, until `drain` is called.

        At most `batch_size` events are in hand, claimed and not settled; their leases are renewed.
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
        for subscription in self._subscriptions:
            subscription.stop()

    def pause(self, seconds: Seconds) -> None:
        """Claim nothing for so long, `longest_wait` at most: what handlers need is away."""
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

    async def defer(self, *tokens: Token, seconds: Seconds) -> None:
        """Return deliveries unhandled, and claim nothing of their scopes for so long.

        What else of these scopes was claimed goes back with them, unspent.
        """
        rest = Rest(time.monotonic() + seconds + DEFER_MARGIN, for_room=False)
        scopes = {token.scope for token in tokens if token.scope}
        also = [
            token
            for each in self._subscriptions
            for scope in scopes
            for token in each.avoid(scope, rest)
        ]
        await self.hand_back(*tokens, *also, delay=seconds)

    async def pass_on(
        self, scope: Scope, *tokens: Token, seconds: Seconds, for_room: bool = False
    ) -> None:
        """Leave a scope to others, and claim nothing of it for so long.

        These deliveries, and what else of the scope was claimed, go back unspent. What is passed on
        `for_room`, because this process has enough of the scope in hand, ends with `look_again`.
        """
        rest = Rest(time.monotonic() + seconds, for_room)
        also = [token for each in self._subscriptions for token in each.avoid(scope, rest)]
        await self.hand_back(*tokens, *also)

    def look_again(self) -> None:
        """Claim of scopes again that were passed on for room."""
        for subscription in self._subscriptions:
            subscription.look_again()

    def settled(self, *tokens: Token) -> None:
        """Note that tokens were settled in a transaction of the caller's, which frees capacity."""
        for subscription in self._subscriptions:
            subscription.settled(tokens)

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
        excluded = ["agent.action", "lifecycle"] if types is None else []
        row = (await self.fetch(admin.ADD_SUBSCRIPTION, self.subscriber, types, excluded))[0]
        if not row["created"] and since is None:
            return
        begin = since or datetime.now(UTC) + timedelta(seconds=self._clock.offset)
        while not (await self.fetch(admin.ENDED, row["tx"]))[0]["ended"]:  # noqa: ASYNC110 - the server tells nobody when a transaction ends
            await asyncio.sleep(QUIET_CHECK)
        if await self.fetch(admin.BACKFILL, self.subscriber, begin):
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
        async with aclosing(log.replay(self.pool, start, end, Wanted(event_types, scope))) as found:
            async for event in found:
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
        wanted = Wanted(event_types, scope)
        async with self.waking() as changed:
            following = log.follow(self._read_log, after, wanted, changed, self.settings)
            async with aclosing(following) as found:
                async for pair in found:
                    yield pair

    async def end(self) -> Cursor:
        """Return the cursor from which `follow` yields what becomes visible from now on."""
        return await log.end(self._read_log)

    async def read_on(
        self, cursor: Cursor, event_types: list[str] | None = None, scope: Scope | None = None
    ) -> AsyncGenerator[tuple[Cursor, Event | None]]:
        """Yield what the log has after a cursor, up to now; at last None and the cursor of now."""
        wanted = Wanted(event_types, scope)
        async with aclosing(log.read_on(self._read_log, cursor, wanted)) as found:
            async for pair in found:
                yield pair

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
        return await log.find(self._read_log, event_id)

    async def page(
        self,
        event_types: list[str] | None = None,
        *,
        scope: Scope | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[Event]:
        """Return the newest events with a `seq` below `before`, newest first."""
        return await log.page(self._read_log, Wanted(event_types, scope), before, limit)

    # Looking after the queue

    async def dlq_list(self, limit: int = 100) -> list[DeadLetter]:
        """Return the newest dead letters with error, attempts and traceback."""
        return await admin.dead_letters(self.fetch, self.subscriber, limit)

    async def dlq_show(self, event_id: str) -> DeadLetter | None:
        """Return the dead letter of one event."""
        found = await admin.dead_letters(self.fetch, self.subscriber, 1, event_id)
        return found[0] if found else None

    async def dlq_retry(self, event_id: str) -> bool:
        """Make a dead letter due again with all its attempts; False if there is none."""
        return bool(await self._retry(event_id))

    async def dlq_retry_all(self) -> int:
        """Make all dead letters due again; return how many there were."""
        return await self._retry(None)

    async def dlq_purge(self, event_id: str | None = None) -> int:
        """Drop one dead letter, or all; the log keeps the events. Return how many."""
        return await admin.purge_dead(self.fetch, self.subscriber, event_id)

    async def prune(self, older_than: Seconds) -> int:
        """Delete events from the log that are older and owed to nobody; return how many."""
        return sum([count async for count in admin.prune(self.fetch, older_than)])

    async def recall(self) -> int:
        """Make due what an earlier version put off for longer than `longest_wait`; return how many."""
        return await claim.recall(self.fetch, self.subscriber, self.longest_wait)

    async def release_aged(self, age: Seconds) -> int:
        """Let go of what has been held for longer than `age`, in quiet scopes too; return how many."""
        return await hold.release_aged(self.fetch, self.subscriber, age)

    async def stats(self) -> list[QueueStats]:
        """Return what each subscriber is owed."""
        return await admin.stats(self.fetch)

    async def status(self, event_id: str) -> list[DeliveryStatus]:
        """Return how far an event has come with each subscriber."""
        return await admin.status(self.fetch, event_id)

    async def _retry(self, event_id: str | None) -> int:
        count = await admin.retry_dead(self.fetch, self.subscriber, event_id)
        self._wake.announce()
        return count
