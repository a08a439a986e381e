"""A consumer's stream of deliveries: claimed as capacity frees up, leased while in flight.

Deliveries that are claimed and not settled are *in flight*. Their number never exceeds the batch size, so
a slow handler makes no buffer grow. Their leases are renewed while they are buffered or being handled.
When the stream closes, the unsettled ones are released without spending an attempt.
"""

import asyncio
import contextlib
import math
import random
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import NamedTuple

import logfire

from ...config import Settings
from ...core.events import Event
from ...core.units import Scope, Seconds
from ..database import COMMIT_TIMEOUT, DATABASE_UNAVAILABLE, Fetch, Row
from ..telemetry import counters
from . import claim, settle
from .claim import Token
from .codec import NewerEvent, Unreadable, decode
from .dedicated import DedicatedConnection
from .inflight import Delivery, InFlight
from .notifier import Notifier
from .requeues import Requeues
from .settle import Backoff

RENEWALS_PER_LEASE = 3  # two may fail before the lease expires
MAX_CLAIM = 250  # deliveries a statement, so that the next claim runs while these are handled
MAX_DEFERRED_SCOPES = 1_000  # a claim compares each row with all of them
NEWER_DELAY: Seconds = 1.0  # before an event that only newer code can read is claimed again
EMPTIED_PAUSE: Seconds = 0.05  # after an incomplete claim, for rows that other workers had locked
DUE_CACHE_TIME: Seconds = 1.0  # before `next_due` is queried again, since other workers add retries
CONTESTED_TIME: Seconds = 30.0  # a scope counts as contested this long after its last deferral
MAX_BUSY_DEFERRAL: Seconds = 1.0  # of a scope that another handler keeps
MAX_PAUSE: Seconds = 5.0  # between claims while the database is unavailable


class Clock:
    """Estimates the database's time from this machine's clock and the offset at the last claim."""

    def __init__(self) -> None:
        self.offset: Seconds = 0.0

    def set(self, database_time: float) -> None:
        """Set the offset by the database's time now, in seconds since 1970."""
        self.offset = database_time - time.time()


class ConsumerConfig(NamedTuple):
    """A consumer's subscriber, event types (None for all), batch size and limits of retries and waits."""

    subscriber: str
    types: list[str] | None
    batch_size: int
    backoff: Backoff
    longest_wait: Seconds


class Deferral(NamedTuple):
    """Until when nothing of a scope is claimed, on this process's monotonic clock."""

    until: float
    for_capacity: bool
    """Whether the reason is this process's capacity; otherwise another handler has the scope."""
    seconds: Seconds
    """Its length; a deferral that follows at once is twice as long."""


class Consumer:
    """Claims and yields the deliveries of one `EventStore.subscribe` call.

    Claims use a dedicated `connection`, so that handlers do not wait for them. Rare statements use the
    pool (`fetch`).
    """

    def __init__(
        self,
        connection: DedicatedConnection,
        fetch: Fetch,
        notifier: Notifier,
        clock: Clock,
        config: ConsumerConfig,
        requeues: Requeues,
        settings: Settings,
    ) -> None:
        self._requeues = requeues
        self._connection = connection
        self._fetch = fetch
        self._notifier = notifier
        self._clock = clock
        self._config = config
        self._lease = settings.event_lease
        self._fallback = settings.event_fallback_check
        self._across_processes = True
        """Whether other processes may claim, by the kind of locks."""
        self._consumers: set[Consumer] = set()
        """All consumers of the store, this one included."""
        self._in_flight = InFlight(settings, config.batch_size)
        self._task: asyncio.Task[object] | None = None
        """The task that iterates over the events."""
        self._buffer: deque[tuple[Row, Token]] = deque()
        """Claimed and not yielded yet, in order of `seq`."""
        self._releasing: set[Token] = set()
        """Deliveries whose release is not confirmed yet."""
        self._arrived = asyncio.Event()
        self._changed = asyncio.Event()
        self._next_recovery = 0.0
        self._has_expired_leases = False
        self._paused_until = 0.0
        self._deferred: dict[Scope, Deferral] = {}
        """Scopes of which nothing is claimed, since it would be released again."""
        self._contested: dict[Scope, Deferral] = {}
        """The last deferral of each contested scope: another handler had it, and this one settled nothing since."""
        self._stopping = False
        self._due: float | None = None
        """When the next retry is due, as of `_due_asked`; both on this process's monotonic clock."""
        self._due_asked = -math.inf
        self._exhausted = self._emptied = False
        """Whether the last claim returned nothing, and whether it returned fewer than asked for."""

    @property
    def subscriber(self) -> str:
        """The name of the subscriber."""
        return self._config.subscriber

    async def check(self) -> None:
        """Query the connection of the claims.

        Raises:
            DatabaseUnavailable: it does not answer.
        """
        await self._connection.check()

    async def events(self, consumers: set["Consumer"]) -> AsyncGenerator[tuple[Event, Token]]:
        """Yield events with the tokens that settle them, and be one of `consumers` meanwhile.

        After `stop` it ends once everything that was yielded is settled.

        Raises:
            RuntimeError: other code cancelled the task that claims or the one that renews leases.
        """
        from ..locks import ScopedLocks  # imported here, since commands claim nothing

        self._across_processes = ScopedLocks.across_processes
        self._changed = self._notifier.subscribe()
        self._task = asyncio.current_task()
        renewing = asyncio.create_task(self._renew())
        claiming = asyncio.create_task(self._claim_all())
        for task in (renewing, claiming):
            task.add_done_callback(lambda _: self._arrived.set())
        self._consumers = consumers
        consumers.add(self)
        try:
            while not (claiming.done() or renewing.done()):
                await self._arrived.wait()
                self._arrived.clear()
                while self._buffer and not self._stopping and self._in_flight.has_capacity:
                    row, token = self._buffer.popleft()
                    if token not in self._in_flight:
                        continue  # its lease was lost while it was buffered
                    try:
                        event = decode(row)
                    except (Unreadable, NewerEvent) as error:
                        await self._refuse(row, token, error)
                    else:
                        self._in_flight.mark_yielded(token, event.stored_weight)
                        yield event, token
                        self._in_flight.is_waiting = True
                        self._task = asyncio.current_task()
            _raise_if_ended(claiming, renewing)
            await self._release([token for _, token in self._buffer])
            while self._in_flight:
                self._changed.clear()
                await self._changed.wait()
        finally:
            self.stop()
            renewing.cancel()
            self._notifier.unsubscribe(self._changed)
            await asyncio.shield(self._close(claiming))
            consumers.discard(self)

    def stop(self) -> None:
        """Stop claiming and yielding."""
        self._stopping = True
        self._changed.set()

    def pause(self, seconds: Seconds) -> None:
        """Claim nothing for `seconds`."""
        self._paused_until = max(self._paused_until, time.monotonic() + seconds)

    def defer(
        self, scope: Scope, seconds: Seconds, *, for_capacity: bool = False, busy: bool = False
    ) -> list[Token]:
        """Claim nothing of a scope for `seconds`; return its buffered deliveries, for the caller to release.

        While another handler keeps a `busy` scope, each deferral is twice as long as the last, up to
        `MAX_BUSY_DEFERRAL`. So of two workers that compete for a scope, one handles it and the other backs off.
        """
        now = time.monotonic()
        if busy:
            seconds = self._next_contested_deferral(scope, seconds, now)
        if len(self._deferred) >= MAX_DEFERRED_SCOPES:
            del self._deferred[next(iter(self._deferred))]
        self._deferred[scope] = Deferral(now + seconds, for_capacity, seconds)
        buffered = list(self._buffer)
        self._buffer.clear()
        self._buffer.extend(each for each in buffered if each[0]["scope"] != scope)
        return [token for row, token in buffered if row["scope"] == scope]

    def _next_contested_deferral(self, scope: Scope, seconds: Seconds, now: float) -> Seconds:
        last = self._contested.get(scope)
        if last is not None and now - last.until < MAX_BUSY_DEFERRAL:
            seconds = min(last.seconds * 2, MAX_BUSY_DEFERRAL)
        self._contested = {
            name: deferral
            for name, deferral in self._contested.items()
            if deferral.until > now - CONTESTED_TIME
        }
        if len(self._contested) >= MAX_DEFERRED_SCOPES:
            del self._contested[next(iter(self._contested))]
        self._contested[scope] = Deferral(now + seconds, for_capacity=False, seconds=seconds)
        return seconds

    def resume_deferred_scopes(self) -> None:
        """End the deferrals that were made for capacity."""
        resumed = [scope for scope, deferral in self._deferred.items() if deferral.for_capacity]
        for scope in resumed:
            del self._deferred[scope]
        if resumed:
            self._changed.set()

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping

    @property
    def is_ending(self) -> bool:
        """Whether `stop` was called, or its task is being cancelled or has ended."""
        task = self._task
        return self._stopping or task is None or task.done() or task.cancelling() > 0

    @property
    def task(self) -> "asyncio.Task[object] | None":
        """The task that iterates over the events."""
        return self._task

    def has(self, tokens: Iterable[Token]) -> bool:
        """Return whether one of these deliveries is in flight here."""
        return any(token in self._in_flight for token in tokens)

    def handler_started(self, tokens: Iterable[Token]) -> None:
        """Record that a handler works on these deliveries."""
        for token in tokens:
            self._in_flight.handler_started(token)

    def handler_ended(self, tokens: Iterable[Token]) -> None:
        """Record that a handler no longer works on these deliveries."""
        for token in tokens:
            self._in_flight.handler_ended(token)

    def in_flight(self) -> list[Delivery]:
        """Return the deliveries in flight."""
        return self._in_flight.all()

    async def release(self) -> bool:
        """Release everything in flight; return False if the database is unavailable.

        This includes releases that `_close` has under way, since the end of the process interrupts them.
        """
        return await self._release({*self._in_flight.tokens(), *self._releasing})

    def settled(self, tokens: Sequence[Token], *, final: bool = False) -> None:
        """Remove deliveries from those in flight, which frees capacity.

        `final` deliveries were handled or held, so nobody claims them again. A stale token leaves a newer
        claim of the same event in flight.
        """
        self._in_flight.remove(tokens)
        if self._buffer:
            self._arrived.set()  # `events` may wait for the memory of these
        if not final:
            self._due_asked = -math.inf
        for token in tokens if final else ():
            self._contested.pop(token.scope, None)
        if final and self._exhausted and not self._stopping:
            return  # the queue was empty a moment ago; half of the claims of an empty queue would come from here
        if self._free_capacity():
            self._changed.set()

    async def _claim_all(self) -> None:
        """Claim while there is free capacity, also across outages of the database.

        The next claim is sent before the events of the last one are decoded, so that the server works in
        parallel with their handlers.
        """
        pause: Seconds = 0.1
        while not self._stopping:
            self._changed.clear()
            try:
                claimed = await self._claim()
                # After the claim, so that new events do not wait for this query.
                if await self._look_for_expired_leases():
                    continue
                if not claimed:
                    await self._sleep()
                elif self._emptied:
                    await self._pause(EMPTIED_PAUSE)
                pause = 0.1
            except DATABASE_UNAVAILABLE as error:
                self._requeues.note_all(self._lease)  # a claim's answer may be lost
                logfire.warn("The queue cannot be read: {error}", error=repr(error))
                await self._pause(pause * random.uniform(0.5, 1.0))  # noqa: S311 - only jitter
                pause = min(pause * 2, MAX_PAUSE)

    async def _claim(self) -> bool:
        """Claim for the free capacity; expired leases come first, each of them alone."""
        self._exhausted = self._emptied = False
        paused = time.monotonic() < self._paused_until
        if paused or self._in_flight.is_exclusive or self._in_flight.is_loop_stuck():
            return False
        if self._has_expired_leases:
            return await self._claim_expired()
        if not (capacity := self._free_capacity()):
            return False
        who, types = self._config.subscriber, self._config.types
        now = time.monotonic()
        self._deferred = {
            scope: deferral for scope, deferral in self._deferred.items() if deferral.until > now
        }
        deferred = list(self._deferred) or None
        # The statement needs what is in flight only to check contested scopes.
        in_flight = [token.seq for token in self._in_flight.tokens()] if self._contested else ()
        scopes = (deferred, list(self._contested), in_flight)
        concurrent = self._across_processes or len(self._consumers) > 1
        rows = await claim.claim(
            self._connection.fetch, who, capacity, self._lease, types, *scopes, concurrent
        )
        self._exhausted, self._emptied = not rows, len(rows) < capacity
        return self._take(rows, alone=False)

    async def _look_for_expired_leases(self) -> bool:
        """Look now and then whether a lease ran out."""
        now = time.monotonic()
        if self._has_expired_leases or now < self._next_recovery:
            return False
        self._next_recovery = now + self._fallback
        who, types = self._config.subscriber, self._config.types
        recalled = await claim.end_overlong_waits(
            self._connection.fetch, who, self._config.longest_wait
        )
        self._has_expired_leases = await claim.any_expired(
            self._connection.fetch, who, types, self._lease
        )
        return self._has_expired_leases or bool(recalled)

    def _free_capacity(self) -> int:
        """Return how many to claim now: 0 while some are buffered and less than half a claim is free."""
        most = min(MAX_CLAIM, self._config.batch_size)
        free = min(most, self._config.batch_size - len(self._in_flight))
        return 0 if self._buffer and free < most / 2 else free

    async def _claim_expired(self) -> bool:
        if self._in_flight:
            return False  # a possible poison event is handled with nothing else in flight
        rows = await claim.claim_expired(
            self._connection.fetch,
            self._config.subscriber,
            self._lease,
            self._config.types,
            self._config.backoff.attempts,
        )
        self._has_expired_leases = bool(rows)  # another worker may have been faster
        return self._take(rows, alone=True)

    def _take(self, rows: Sequence[Row], *, alone: bool) -> bool:
        """Buffer claimed rows; return whether there are any."""
        for row in rows:
            token = Token(row["seq"], row["fence"], alone, row["attempts"], row["scope"])
            self._in_flight.add(Delivery(token, row["id"], row["scope"]))
            self._buffer.append((row, token))
        if rows:
            # A released delivery is claimed again after later ones, which may still be buffered.
            self._buffer = deque(sorted(self._buffer, key=lambda each: each[1].seq))
            self._clock.set(claim.claimed_at(rows[0]["fence"]))
            self._arrived.set()
        return bool(rows)

    async def _refuse(self, row: Row, token: Token, error: Unreadable | NewerEvent) -> None:
        """Dead-letter an event that this code cannot read, or release one that newer code wrote.

        During a deploy, a worker with the newer code claims the latter.
        """
        if isinstance(error, NewerEvent):
            logfire.warn("Released for a worker with newer code: {reason}", reason=str(error))
            await self._release([token], NEWER_DELAY, reason=str(error))
        else:
            await self._dead_letter(token, row, error)
            self.settled([token])

    async def _dead_letter(self, token: Token, row: Row, error: Unreadable) -> None:
        reason = f"it is not a valid {row['type']} event any more: {error}"
        at_once = Backoff(1.0, 1.0, attempts=0)
        try:
            died = await settle.nack(
                self._fetch, self._config.subscriber, token, reason, None, at_once
            )
        except DATABASE_UNAVAILABLE as outage:
            # It is claimed again when its lease expires; the rest of the batch does not wait.
            logfire.warn("An unreadable event was not dead-lettered: {error}", error=repr(outage))
            return
        if not died:
            return  # its lease expired: the worker that has it now dead-letters it
        counters.dead.add(1)
        logfire.error("Event {id} was dead-lettered: {reason}", id=row["id"], reason=reason)

    async def _sleep(self) -> None:
        """Wait for a wake-up, for free capacity, for the next due retry, or for the fallback check."""
        longest = self._fallback * random.uniform(0.75, 1.25)  # noqa: S311 - only jitter
        if (paused := self._paused_until - time.monotonic()) > 0:
            longest = min(longest, paused)
        elif self._free_capacity():
            due = await self._next_due()
            now = time.monotonic()
            # One that is due now and was not claimed is of another type, or another worker has it.
            longest = min(longest, due - now) if due is not None and due > now else longest
            longest = min(
                [longest, *(deferral.until - now for deferral in self._deferred.values())]
            )
        await self._pause(longest)

    async def _next_due(self) -> float | None:
        """Return when the next retry is due, from a cache of `DUE_CACHE_TIME`.

        The cache is dropped when this process releases a delivery, or when that time has passed.
        """
        now = time.monotonic()
        passed = self._due is not None and now >= self._due
        if passed or now >= self._due_asked + min(DUE_CACHE_TIME, self._fallback):
            self._due_asked = now
            seconds = await claim.next_due(self._connection.fetch, self._config.subscriber)
            self._due = None if seconds is None else now + seconds
        return self._due

    async def _pause(self, longest: Seconds) -> None:
        """Wait for a change, at most `longest` seconds."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), longest)

    async def _renew(self) -> None:
        """Renew the leases of deliveries that are buffered or being handled; abandon the others.

        It goes on after any error, since two of three renewals may fail.
        """
        while True:
            await asyncio.sleep(self._lease / RENEWALS_PER_LEASE)
            self._give_up()
            try:
                if self._in_flight.is_loop_stuck():
                    await self._release_buffered()
                if held := self._in_flight.tokens():
                    renewed = await claim.renew(
                        self._fetch, self._config.subscriber, held, self._lease
                    )
                    self._lost([token for token in held if token.seq not in renewed])
            except DATABASE_UNAVAILABLE as error:
                logfire.warn("Leases were not renewed: {error}", error=repr(error))
            except Exception as error:
                logfire.error(
                    "Leases were not renewed: {error}", error=repr(error), _exc_info=error
                )

    def _give_up(self) -> None:
        """Stop renewing abandoned deliveries: their leases expire, and another worker claims them."""
        abandoned = self._in_flight.abandoned()
        for each in abandoned:
            logfire.error(
                "No handler works on {delivery} any more: its lease is no longer renewed",
                delivery=str(each),
                seq=each.token.seq,
                worked_on=each.blocks > 0,
            )
        self._lost([each.token for each in abandoned])

    def _lost(self, tokens: list[Token]) -> None:
        for token in tokens:
            self._requeues.note(token)
        if tokens:
            self.settled(tokens)

    async def _release_buffered(self) -> None:
        """Release the buffered deliveries of a loop that is stuck."""
        buffered = [token for _, token in self._buffer]
        self._buffer.clear()
        if buffered:
            logfire.error(
                "The loop takes no more events: {count} buffered ones are released",
                count=len(buffered),
            )
            await self._release(buffered)

    async def _close(self, claiming: asyncio.Task[None]) -> None:
        """Wait for the claim under way, release everything in flight and close the connection."""
        await asyncio.wait([claiming], timeout=COMMIT_TIMEOUT)
        claiming.cancel()  # if the server does not answer, the leases expire
        await asyncio.wait([claiming])
        with contextlib.suppress(TimeoutError):  # as above
            await asyncio.wait_for(self._release(self._in_flight.tokens()), COMMIT_TIMEOUT)
        await self._connection.close()

    async def _release(
        self, unsettled: Iterable[Token], delay: Seconds = 0, reason: str | None = None
    ) -> bool:
        tokens = list(unsettled)
        self._lost(tokens)
        if not tokens:
            return True
        self._releasing.update(tokens)  # kept if this is cancelled, for `release`
        try:
            await claim.release(self._fetch, self._config.subscriber, tokens, delay, reason)
            self._due_asked = -math.inf
            self._notifier.notify()
        except DATABASE_UNAVAILABLE as error:
            # No event is lost: the leases expire.
            logfire.warn("Deliveries were not released: {error}", error=repr(error))
            self._releasing.difference_update(tokens)
            return False
        self._releasing.difference_update(tokens)
        return True


def _raise_if_ended(claiming: "asyncio.Task[None]", renewing: "asyncio.Task[None]") -> None:
    """Raise the error that ended a task of the consumer, if any.

    Raises:
        RuntimeError: other code cancelled one.
    """
    for task, work in ((renewing, "renewing leases"), (claiming, "claiming events")):
        if task.done() and task.cancelled():
            raise RuntimeError(f"{work} was cancelled by other code")
        if task.done() and (error := task.exception()):
            raise error
