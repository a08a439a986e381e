"""The task of one consumer that claims deliveries while there is free capacity.

Deliveries that are claimed and not settled are *in flight*. Their number never exceeds the batch size, so
a slow handler makes no buffer grow.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Collection, Sequence

import logfire

from ...config import Settings
from ...core.units import Seconds
from ..database import DATABASE_UNAVAILABLE, Fetch, Row
from . import claim
from .buffer import Buffer
from .claim import Token
from .clock import Clock
from .consumer_config import ConsumerConfig
from .deferrals import Deferrals
from .inflight import Delivery, InFlight
from .next_due import NextDue
from .notifier import Notifier
from .poison import ExpiredLeases
from .requeues import Requeues
from .wakes import Wakes

MAX_CLAIM = 250  # deliveries a statement, so that the next claim runs while these are handled
EMPTIED_PAUSE: Seconds = 0.05  # after an incomplete claim, for rows that other workers had locked
FIRST_CLAIM_PAUSE: Seconds = 0.1
MAX_CLAIM_PAUSE: Seconds = 5.0  # between claims while the database is unavailable


class Claiming:
    """Claims deliveries into `buffer` and `in_flight`, and sleeps while there is nothing to claim."""

    def __init__(
        self,
        fetch: Fetch,
        notifier: Notifier,
        clock: Clock,
        config: ConsumerConfig,
        requeues: Requeues,
        in_flight: InFlight,
        buffer: Buffer,
        settings: Settings,
    ) -> None:
        self._fetch = fetch
        self._notifier = notifier
        self._clock = clock
        self._config = config
        self._requeues = requeues
        self._in_flight = in_flight
        self._buffer = buffer
        self._lease = settings.event_lease
        self._fallback = settings.event_fallback_check
        self.deferrals = Deferrals()
        self.next_due = NextDue(fetch, config.subscriber, self._fallback)
        self._expired = ExpiredLeases(fetch, config, self._lease, self._fallback)
        self._wakes = Wakes(fetch, config.subscriber, requeues, self._fallback)
        self._consumers: Collection[object] = ()
        """All consumers of the store."""
        self._across_processes = True
        """Whether other processes may claim, by the kind of locks."""
        self._changed = asyncio.Event()
        """Set by wake-ups, and when capacity is freed or a deferral ends."""
        self._paused_until = 0.0
        self.is_stopping = False
        """Whether `stop` was called."""
        self._exhausted = self._emptied = False
        """Whether the last claim returned nothing, and whether it returned fewer than asked for."""

    def start(self, consumers: Collection[object]) -> "asyncio.Task[None]":
        """Start the task; `consumers` are all those of the store, which may change."""
        from ..locks import ScopedLocks  # imported here, since commands claim nothing

        self._across_processes = ScopedLocks.across_processes
        self._consumers = consumers
        self._changed = self._notifier.subscribe()
        return asyncio.create_task(self._run())

    def stop(self) -> None:
        """Claim nothing more; the task ends after the claim under way."""
        self.is_stopping = True
        self._changed.set()

    def unsubscribe(self) -> None:
        """Receive no more wake-ups."""
        self._notifier.unsubscribe(self._changed)

    def pause(self, seconds: Seconds) -> None:
        """Claim nothing for `seconds`."""
        self._paused_until = max(self._paused_until, time.monotonic() + seconds)

    def resume_deferred_scopes(self) -> None:
        """End the deferrals that were made for capacity."""
        if self.deferrals.resume():
            self._changed.set()

    def settled(self, tokens: Sequence[Token], *, final: bool) -> None:
        """Remove deliveries from those in flight, which frees capacity.

        `final` deliveries were handled or held, so nobody claims them again. A stale token leaves a newer
        claim of the same event in flight.
        """
        self._in_flight.remove(tokens)
        if self._buffer:
            self._buffer.arrived.set()  # it may wait for the memory of these
        if final:
            self.deferrals.settled(tokens)
        else:
            self.next_due.forget()
        if final and self._exhausted and not self.is_stopping:
            return  # the queue was empty a moment ago; half of the claims of an empty queue would come from here
        if self._free_capacity():
            self._changed.set()

    async def all_settled(self) -> None:
        """Wait until nothing is in flight."""
        while self._in_flight:
            self._changed.clear()
            await self._changed.wait()

    async def _run(self) -> None:
        """Claim while there is free capacity, also across outages of the database."""
        pause = FIRST_CLAIM_PAUSE
        while not self.is_stopping:
            self._changed.clear()
            try:
                await self._claim_or_wait()
                pause = FIRST_CLAIM_PAUSE
            except DATABASE_UNAVAILABLE as error:
                self._requeues.note_all(self._lease)  # a claim's answer may be lost
                logfire.warn("The queue cannot be read: {error}", error=repr(error))
                await self._wait(pause * random.uniform(0.5, 1.0))  # noqa: S311 - only jitter
                pause = min(pause * 2, MAX_CLAIM_PAUSE)

    async def _claim_or_wait(self) -> None:
        """Claim once, and wait for a change if there may be nothing more to claim.

        The next claim is sent before the events of the last one are decoded, so that the server works in
        parallel with their handlers.
        """
        claimed = await self._claim()
        # After the claim, so that new events do not wait for these queries.
        if await self._expired.look() or await self._wakes.look():
            return
        if not claimed:
            await self._sleep()
        elif self._emptied:
            await self._wait(EMPTIED_PAUSE)

    async def _claim(self) -> bool:
        """Claim for the free capacity; expired leases come first, each of them alone."""
        self._exhausted = self._emptied = False
        self.deferrals.expire()  # also if nothing is claimed, or `_sleep` would end at once
        paused = time.monotonic() < self._paused_until
        if paused or self._in_flight.is_exclusive or self._in_flight.is_loop_stuck():
            return False
        if self._expired.found:
            if self._in_flight:
                return False  # a possible poison event is handled with nothing else in flight
            return self._take(await self._expired.claim(), alone=True)
        if not (capacity := self._free_capacity()):
            return False
        rows = await self._claim_unleased(capacity)
        self._exhausted, self._emptied = not rows, len(rows) < capacity
        return self._take(rows, alone=False)

    async def _claim_unleased(self, capacity: int) -> Sequence[Row]:
        subscriber, types = self._config.subscriber, self._config.types
        deferred, contested = self.deferrals.deferred() or None, self.deferrals.contested()
        # The statement needs what is in flight only to check contested scopes.
        in_flight = [token.seq for token in self._in_flight.tokens()] if contested else ()
        scopes = (deferred, contested, in_flight)
        concurrent = self._across_processes or len(self._consumers) > 1
        return await claim.claim(
            self._fetch, subscriber, capacity, self._lease, types, *scopes, concurrent
        )

    def _free_capacity(self) -> int:
        """Return how many to claim now: 0 while some are buffered and less than half a claim is free."""
        most = min(MAX_CLAIM, self._config.batch_size)
        free = min(most, self._config.batch_size - len(self._in_flight))
        return 0 if self._buffer and free < most / 2 else free

    def _take(self, rows: Sequence[Row], *, alone: bool) -> bool:
        """Buffer claimed rows; return whether there are any."""
        claimed: list[tuple[Row, Token]] = []
        for row in rows:
            claimed_as = (row["seq"], row["fence"], alone, row["attempts"], row["scope"])
            token = Token(*claimed_as, row["admitted"])
            self._in_flight.add(Delivery(token, row["id"], row["scope"]))
            claimed.append((row, token))
        if claimed:
            self._buffer.add(claimed)
            self._clock.set(claim.claimed_at(rows[0]["fence"]))
        return bool(claimed)

    async def _sleep(self) -> None:
        """Wait for a wake-up, for free capacity, for the next due retry, or for the fallback check."""
        longest = self._fallback * random.uniform(0.75, 1.25)  # noqa: S311 - only jitter
        if (paused := self._paused_until - time.monotonic()) > 0:
            longest = min(longest, paused)
        elif self._free_capacity():
            due = await self.next_due.get()
            now = time.monotonic()
            # One that is due now and was not claimed is of another type, or another worker has it.
            longest = min(longest, due - now) if due is not None and due > now else longest
            longest = min(longest, self.deferrals.soonest_end() - now)
        longest = min(longest, max(self._wakes.next_at - time.monotonic(), 0.0))
        await self._wait(longest)

    async def _wait(self, longest: Seconds) -> None:
        """Wait for a change, at most `longest` seconds."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), longest)
