"""The queue of one subscriber: claims deliveries for handlers, and settles, releases and defers them."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, cast

import logfire

from ..database import DatabaseUnavailable, after_commit, fetch_in
from ..process.background import BackgroundTasks
from ..telemetry import counters
from ..waits import bounded
from . import claim, settle
from .backoff import Backoff, nack
from .clock import Clock
from .consumer import Consumer
from .consumer_config import ConsumerConfig
from .outage_pause import OutagePause
from .requeues import Requeues
from .settle import Settler

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    import asyncpg
    from sqlalchemy.ext.asyncio import AsyncSession

    from ...core.events import Event
    from ...core.units import Scope, Seconds
    from .claim import Token
    from .connections import StoreConnections
    from .inflight import Delivery

RELEASE_RETRY_PAUSE: Seconds = 0.5  # while the database is unavailable
DEFER_MARGIN: Seconds = 0.2  # so that later deliveries do not overtake deferred ones


class SubscriberQueue:
    """The deliveries of one subscriber, as this process claims and settles them."""

    def __init__(self, connections: StoreConnections, subscriber: str) -> None:
        self.subscriber = subscriber
        self._connections = connections
        self._settings = connections.settings
        self.stale = 0
        """The number of stale acks, nacks and holds."""
        self._backoff = Backoff(
            self._settings.event_retry_base_delay,
            self._settings.event_retry_max_delay,
            self._settings.event_max_attempts,
        )
        self._clock = Clock()
        self._outage_pause = OutagePause()
        self.requeues = Requeues()
        """When deliveries of each scope last went back to the queue, so that its order must be checked."""
        self._drained = False
        on_commit = partial(self._after_commit, final=True)
        self.settler = Settler(connections.settling, subscriber, on_commit)
        self._consumers: set[Consumer] = set()
        self._interruptible: set[asyncpg.Connection] = set()
        self.background = BackgroundTasks()
        """Tasks that no caller waits for; `EventStore.close` waits for them."""

    @property
    def longest_wait(self) -> Seconds:
        """The longest time, in seconds, that a delivery may be deferred or wait for a retry."""
        return max(self._settings.model_breaker_max_pause, self._settings.event_retry_max_delay)

    def now(self) -> datetime:
        """Return the database's time, estimated from this machine's clock and the last claim."""
        return datetime.now(UTC) + timedelta(seconds=self._clock.offset)

    def subscribe(
        self, event_types: list[str] | None, batch_size: int
    ) -> AsyncGenerator[tuple[Event, Token]]:
        """Yield events with the tokens that settle them; see `EventStore.subscribe`."""
        config = ConsumerConfig(
            self.subscriber, event_types, batch_size, self._backoff, self.longest_wait
        )
        consumer = Consumer(
            self._connections.for_claims(),
            self._connections.by_index,
            self._connections.notifier,
            self._clock,
            config,
            self.requeues,
            self._settings,
        )
        return consumer.events(self._consumers)

    def drain(self) -> None:
        """Stop claiming; running handlers may finish, and then the consumers end."""
        self._drained = True
        for consumer in self._consumers:
            consumer.stop()

    def pause(self, seconds: Seconds) -> None:
        """Claim nothing for `seconds`, at most `longest_wait`."""
        seconds = bounded(seconds, self.longest_wait)
        for consumer in self._consumers:
            consumer.pause(seconds)

    async def ack(self, tokens: tuple[Token, ...], session: AsyncSession | None) -> bool:
        """Settle deliveries as handled; see `EventStore.ack`."""
        if session is None:
            return await self.settler.ack(tokens)
        done = await settle.ack(fetch_in(session), self.subscriber, tokens)
        after_commit(session, lambda: counters.handled.add(len(done)))
        self.note_stale([token for token in tokens if token.seq not in done])
        return len(done) == len(tokens)

    async def nack(self, token: Token, error: str, traceback: str | None) -> bool:
        """Settle a delivery as failed; see `EventStore.nack`."""
        self.requeues.note(token)
        fetch = self._connections.by_index
        dead = await nack(fetch, self.subscriber, token, error, traceback, self._backoff)
        self._after_commit([token], [token] if dead is None else [])
        if dead is not None:
            (counters.dead if dead else counters.failed).add(1)
        if dead:
            logfire.error("Event at {seq} was dead-lettered: {error}", seq=token.seq, error=error)
        return dead is not None

    async def release(self, tokens: Sequence[Token], delay: Seconds) -> bool:
        """Return deliveries unhandled; see `EventStore.release`."""
        try:
            await self._release(tokens, delay)
        except DatabaseUnavailable as error:
            self.settled(tokens)
            logfire.warn("Deliveries were not released: {error}", error=repr(error))
            return False
        return True

    async def _release(self, tokens: Sequence[Token], delay: Seconds) -> None:
        delay = bounded(delay, self.longest_wait)
        for token in tokens:
            self.requeues.note(token)
        await claim.release(self._connections.unsynced, self.subscriber, tokens, delay)
        self.settled(tokens)

    async def release_when_available(self, *tokens: Token) -> None:
        """Release deliveries whose handling failed because the database was unavailable, and pause claims.

        Retries the release until the database is available, so that they spend no attempt. It gives up after a
        lease, or once the queue is drained: the leases then expire.
        """
        pause = self._outage_pause.next_pause()
        self.pause(pause)
        deadline = time.monotonic() + self._settings.event_lease
        while True:
            try:
                return await self._release(tokens, pause)
            except DatabaseUnavailable as error:
                logfire.warn("Deliveries were not released: {error}", error=str(error))
            if self._drained or time.monotonic() > deadline:
                return self.settled(tokens)
            await asyncio.sleep(RELEASE_RETRY_PAUSE)

    async def defer(self, *tokens: Token, seconds: Seconds) -> None:
        """Release deliveries, and claim nothing of their scopes for `seconds`.

        Other buffered deliveries of these scopes are released, too. None of them spends an attempt.
        """
        scopes = {token.scope for token in tokens if token.scope}
        buffered = [
            token
            for each in self._consumers
            for scope in scopes
            for token in each.defer(scope, seconds + DEFER_MARGIN)
        ]
        await self._release_with(tokens, buffered, seconds)

    async def defer_scope(
        self,
        scope: Scope,
        tokens: Sequence[Token],
        seconds: Seconds,
        delay: Seconds,
        *,
        for_capacity: bool,
    ) -> None:
        """Claim nothing of a scope for `seconds`; see `EventStore.defer_scope`."""
        busy = not for_capacity
        buffered = [
            token
            for each in self._consumers
            for token in each.defer(scope, seconds, for_capacity=for_capacity, busy=busy)
        ]
        await self._release_with(tokens, buffered, delay)

    async def _release_with(
        self, tokens: Sequence[Token], buffered: list[Token], delay: Seconds
    ) -> None:
        try:
            await self._release([*tokens, *buffered], delay)
        finally:  # no longer in flight: if this failed, their leases expire
            self.settled(buffered)

    def resume_deferred_scopes(self) -> None:
        """End the deferrals that were made for capacity."""
        for consumer in self._consumers:
            consumer.resume_deferred_scopes()

    def settled(self, tokens: Sequence[Token], *, final: bool = False) -> None:
        """Remove deliveries from those in flight; `final` means that nobody claims them again."""
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
        for consumer in self._consumers:
            if consumer.has(tokens):
                return consumer
        return None

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

    async def end_overlong_waits(self) -> int:
        """Make deliveries due now that would wait for more than `longest_wait`; return their number."""
        fetch = self._connections.long_fetch
        return await claim.end_overlong_waits(fetch, self.subscriber, self.longest_wait)

    def _after_commit(
        self, tokens: list[Token], stale: list[Token], *, final: bool = False
    ) -> None:
        self.settled(tokens, final=final)
        self.note_stale(stale)

    def note_stale(self, stale: Sequence[Token]) -> None:
        """Count and log stale tokens."""
        if stale:
            self.stale += len(stale)
            counters.stale.add(len(stale))
            seqs = [token.seq for token in stale]
            logfire.warn("Stale tokens, another worker has the events: {seqs}", seqs=seqs)

    def checks(self) -> dict[str, Callable[[], Awaitable[object]]]:
        """Return a health check for the claims of each consumer, by name."""
        return {f"claims of {each.subscriber}": each.check for each in self._consumers}
