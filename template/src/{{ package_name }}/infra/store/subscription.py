"""One consumer's stream of events: claimed as capacity frees up, leased while in hand.

What was claimed and not settled is *in flight*. It never exceeds the batch size, so a slow consumer
makes nothing grow; its leases are renewed while it is buffered or somebody works on it; and what is
left of it when the stream closes goes back to the queue without having spent an attempt.
"""

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import NamedTuple

import logfire

from ...config import Settings
from ...core.events import Event
from ...core.types import Scope, Seconds
from ..database import COMMIT_TIMEOUT, DATABASE_AWAY, Fetch, Row
from . import claim, counters, settle
from .claim import Token
from .codec import NewerEvent, Unreadable, decode
from .inflight import Delivery, InFlight
from .lanes import Lane
from .returns import Returns
from .settle import Backoff
from .wake import Wake

RENEWALS_PER_LEASE = 3  # two may fail before another worker takes over
CLAIM_MOST = 250  # at a time, so that the server claims while we handle the last ones
AVOIDED_MOST = 1_000  # scopes: a claim compares each row with all of them
NEWER_DELAY: Seconds = 1.0  # for what only newer code can read
BUSY_LONGEST: Seconds = 1.0  # between claims of a scope that another handler keeps
LONGEST_PAUSE: Seconds = 5.0  # between attempts to reach a database that is away


class Clock:
    """The database's time, estimated from this machine's steady clock."""

    def __init__(self) -> None:
        self.offset: Seconds = 0.0

    def set(self, database_time: float) -> None:
        """Note what time the database just said it is, in seconds since 1970."""
        self.offset = database_time - time.time()


class Owed(NamedTuple):
    """Who is owed what, and how failures are treated."""

    subscriber: str
    types: list[str] | None
    batch_size: int
    backoff: Backoff
    longest_wait: Seconds


class Rest(NamedTuple):
    """How long a scope is left alone, by this process's monotonic clock."""

    until: float
    for_room: bool
    """Whether it is for want of room here, and not because another handler has the scope."""
    seconds: Seconds
    """How long it lasts; one that follows at once lasts twice as long."""


class Subscription:
    """The state of one `EventStore.subscribe` call.

    Claims have a connection of their own (`lane`), so that nothing which a handler does waits for
    them; what is rare goes through the pool (`fetch`).
    """

    def __init__(
        self,
        lane: Lane,
        fetch: Fetch,
        wake: Wake,
        clock: Clock,
        owed: Owed,
        returns: Returns,
        settings: Settings,
    ) -> None:
        self._returns = returns
        self._lane = lane
        self._fetch = fetch
        self._wake = wake
        self._clock = clock
        self._owed = owed
        self._lease = settings.event_lease
        self._fallback = settings.event_fallback_check
        self._in_flight = InFlight(settings, owed.batch_size)
        self._consumer: asyncio.Task[object] | None = None
        """The task that takes the events."""
        self._unread: deque[tuple[Row, Token]] = deque()
        """What is in flight and was not yielded yet."""
        self._arrived = asyncio.Event()
        self._changed = asyncio.Event()
        self._next_recovery = 0.0
        self._orphaned = False
        self._paused_until = 0.0
        self._avoided: dict[Scope, Rest] = {}
        """Scopes whose events would only be handed back."""
        self._busy: dict[Scope, Rest] = {}
        """The last rest of scopes that another handler has, or had until a moment ago."""
        self._stopping = False

    @property
    def subscriber(self) -> str:
        """Whose deliveries these are."""
        return self._owed.subscriber

    async def check(self) -> None:
        """Ask the connection of the claims for an answer.

        Raises:
            DatabaseUnavailable: there is none.
        """
        await self._lane.check()

    async def events(self, among: set["Subscription"]) -> AsyncGenerator[tuple[Event, Token]]:
        """Yield events and the tokens that settle them, for as long as the caller asks.

        After `stop` it ends as soon as everything that was yielded is settled. While it lasts it is
        one of those `among` which settled tokens are looked for.
        """
        self._changed = self._wake.subscribe()
        self._consumer = asyncio.current_task()
        renewing = asyncio.create_task(self._renew())
        claiming = asyncio.create_task(self._claim_all())
        for task in (renewing, claiming):
            task.add_done_callback(lambda _: self._arrived.set())
        among.add(self)
        try:
            while not (claiming.done() or renewing.done()):
                await self._arrived.wait()
                self._arrived.clear()
                while self._unread and not self._stopping:
                    row, token = self._unread.popleft()
                    if token not in self._in_flight:
                        continue  # its lease was lost while it waited
                    try:
                        event = decode(row)
                    except (Unreadable, NewerEvent) as error:
                        await self._refuse(row, token, error)
                    else:
                        self._in_flight.hand_out(token)
                        yield event, token
                        self._in_flight.asking = True
                        self._consumer = asyncio.current_task()
            _raise_if_ended(claiming, renewing)
            await self._hand_back([token for _, token in self._unread])
            while self._in_flight:
                self._changed.clear()
                await self._changed.wait()
        finally:
            self.stop()
            renewing.cancel()
            self._wake.unsubscribe(self._changed)
            await asyncio.shield(self._close(claiming))
            among.discard(self)

    def stop(self) -> None:
        """Claim nothing more, and yield nothing more."""
        self._stopping = True
        self._changed.set()

    def pause(self, seconds: Seconds) -> None:
        """Claim nothing for so long."""
        self._paused_until = max(self._paused_until, time.monotonic() + seconds)

    def avoid(
        self, scope: Scope, seconds: Seconds, *, for_room: bool = False, busy: bool = False
    ) -> list[Token]:
        """Claim nothing of a scope for a while; return what of it was claimed and not yielded yet.

        While another handler keeps a `busy` scope, each time is twice as long as the last.
        """
        now = time.monotonic()
        if busy:
            seconds = self._rest_of_busy(scope, seconds, now)
        if len(self._avoided) >= AVOIDED_MOST:
            del self._avoided[next(iter(self._avoided))]
        self._avoided[scope] = Rest(now + seconds, for_room, seconds)
        unread = list(self._unread)
        self._unread.clear()
        self._unread.extend(each for each in unread if each[0]["scope"] != scope)
        return [token for row, token in unread if row["scope"] == scope]

    def _rest_of_busy(self, scope: Scope, seconds: Seconds, now: float) -> Seconds:
        last = self._busy.get(scope)
        if last is not None and now - last.until < BUSY_LONGEST:
            seconds = min(last.seconds * 2, BUSY_LONGEST)
        self._busy = {
            name: rest for name, rest in self._busy.items() if rest.until > now - BUSY_LONGEST
        }
        self._busy[scope] = Rest(now + seconds, for_room=False, seconds=seconds)
        return seconds

    def look_again(self) -> None:
        """Claim of scopes again for whose events there was no room."""
        crowded = [scope for scope, rest in self._avoided.items() if rest.for_room]
        for scope in crowded:
            del self._avoided[scope]
        if crowded:
            self._changed.set()

    @property
    def is_stopping(self) -> bool:
        """Whether it was stopped."""
        return self._stopping

    @property
    def is_ending(self) -> bool:
        """Whether it was stopped, or its consumer is being cancelled or has ended."""
        consumer = self._consumer
        return self._stopping or consumer is None or consumer.done() or consumer.cancelling() > 0

    @property
    def consumer(self) -> "asyncio.Task[object] | None":
        """The task that takes the events."""
        return self._consumer

    def has(self, tokens: Iterable[Token]) -> bool:
        """Tell whether one of these deliveries is in flight here."""
        return any(token in self._in_flight for token in tokens)

    def begun(self, tokens: Iterable[Token]) -> None:
        """Note that somebody works on these deliveries."""
        for token in tokens:
            self._in_flight.begin(token)

    def ended(self, tokens: Iterable[Token]) -> None:
        """Note that somebody no longer works on these deliveries."""
        for token in tokens:
            self._in_flight.end(token)

    def in_flight(self) -> list[Delivery]:
        """Return what was claimed and is not settled."""
        return self._in_flight.all()

    async def release(self) -> bool:
        """Return everything that is in flight unhandled; False if the database did not do so."""
        return await self._hand_back(self._in_flight.tokens())

    def settled(self, tokens: Iterable[Token]) -> None:
        """Note that these deliveries are no longer in flight, which frees capacity.

        A stale token says nothing of the same event under its new fence.
        """
        self._in_flight.remove(tokens)
        if self._room():
            self._changed.set()

    async def _claim_all(self) -> None:
        """Claim whenever there is room and something is due; outlast a database that is away.

        The next claim is on its way before the last one's events are read, so that the server works
        while their handlers do.
        """
        pause: Seconds = 0.1
        while not self._stopping:
            self._changed.clear()
            try:
                taken = await self._claim()
                # Afterwards, so that what has just been published need not wait for the answer.
                if not (await self._orphans_appeared() or taken):
                    await self._sleep()
                pause = 0.1
            except DATABASE_AWAY as error:
                self._returns.note_all()  # what was claimed may not have reached us
                logfire.warn("The queue cannot be read: {error}", error=repr(error))
                await self._pause(pause * random.uniform(0.5, 1.0))  # noqa: S311 - only jitter
                pause = min(pause * 2, LONGEST_PAUSE)

    async def _claim(self) -> bool:
        """Claim for the free capacity; orphans come first, and each of them alone."""
        paused = time.monotonic() < self._paused_until
        if paused or self._in_flight.alone or self._in_flight.is_stalled():
            return False
        if self._orphaned:
            return await self._claim_orphan()
        if not (room := self._room()):
            return False
        who, types = self._owed.subscriber, self._owed.types
        now = time.monotonic()
        self._avoided = {scope: rest for scope, rest in self._avoided.items() if rest.until > now}
        avoided = list(self._avoided) or None
        rows = await claim.claim(self._lane.fetch, who, room, self._lease, types, avoided)
        return self._take(rows, alone=False)

    async def _orphans_appeared(self) -> bool:
        """Look now and then whether a lease ran out."""
        now = time.monotonic()
        if self._orphaned or now < self._next_recovery:
            return False
        self._next_recovery = now + self._fallback
        who, types = self._owed.subscriber, self._owed.types
        recalled = await claim.recall(self._lane.fetch, who, self._owed.longest_wait)
        self._orphaned = await claim.any_orphaned(self._lane.fetch, who, types, self._lease)
        return self._orphaned or bool(recalled)

    def _room(self) -> int:
        """Return how many to claim now; none while few could be and some are still unread."""
        most = min(CLAIM_MOST, self._owed.batch_size)
        room = min(most, self._owed.batch_size - len(self._in_flight))
        return 0 if self._unread and room < most / 2 else room

    async def _claim_orphan(self) -> bool:
        if self._in_flight:
            return False  # wait until nothing is in flight: what kills its worker must do so alone
        rows = await claim.claim_orphan(
            self._lane.fetch,
            self._owed.subscriber,
            self._lease,
            self._owed.types,
            self._owed.backoff.attempts,
        )
        self._orphaned = bool(rows)  # another worker may have been faster
        return self._take(rows, alone=True)

    def _take(self, rows: Sequence[Row], *, alone: bool) -> bool:
        """Buffer claimed rows; False if there are none."""
        for row in rows:
            token = Token(row["seq"], row["fence"], alone, row["attempts"], row["scope"])
            self._in_flight.add(Delivery(token, row["id"], row["scope"]))
            self._unread.append((row, token))
        if rows:
            # What went back is claimed again behind what is later and still unread.
            self._unread = deque(sorted(self._unread, key=lambda each: each[1].seq))
            self._clock.set(claim.claimed_at(rows[0]["fence"]))
            self._arrived.set()
        return bool(rows)

    async def _refuse(self, row: Row, token: Token, error: Unreadable | NewerEvent) -> None:
        """Dead-letter what this code cannot read.

        What newer code wrote, as happens while a deploy is under way, waits for a worker that has it.
        """
        if isinstance(error, NewerEvent):
            logfire.warn("Left to a worker with newer code: {reason}", reason=str(error))
            await self._hand_back([token], NEWER_DELAY, reason=str(error))
        else:
            await self._dead_letter(token, row, error)
            self.settled([token])

    async def _dead_letter(self, token: Token, row: Row, error: Unreadable) -> None:
        reason = f"it is not a valid {row['type']} event any more: {error}"
        at_once = Backoff(1.0, 1.0, attempts=0)
        try:
            died = await settle.nack(
                self._fetch, self._owed.subscriber, token, reason, None, at_once
            )
        except DATABASE_AWAY as away:
            # It comes again when its lease runs out; the rest of the batch must not wait for that.
            logfire.warn("A bad event was not dead-lettered: {error}", error=repr(away))
            return
        if not died:
            return  # another worker has it by now, and finds the same
        counters.dead.add(1)
        logfire.error("Event {id} was dead-lettered: {reason}", id=row["id"], reason=reason)

    async def _sleep(self) -> None:
        """Wait for a wake-up, for capacity, for the next retry to fall due, or for the fallback."""
        longest = self._fallback * random.uniform(0.75, 1.25)  # noqa: S311 - only jitter
        if (paused := self._paused_until - time.monotonic()) > 0:
            longest = min(longest, paused)
        elif self._room():
            due = await claim.next_due(self._lane.fetch, self._owed.subscriber)
            # What is due already and was not claimed is of another type, or in other hands.
            longest = min(longest, due) if due is not None and due > 0 else longest
            now = time.monotonic()
            longest = min([longest, *(rest.until - now for rest in self._avoided.values())])
        await self._pause(longest)

    async def _pause(self, longest: Seconds) -> None:
        """Wait until something changed, or for so long."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), longest)

    async def _renew(self) -> None:
        """Renew what is buffered or worked on, and give up the rest; outlast whatever fails."""
        while True:
            await asyncio.sleep(self._lease / RENEWALS_PER_LEASE)
            self._give_up()
            try:
                if self._in_flight.is_stalled():
                    await self._release_buffered()
                if held := self._in_flight.tokens():
                    ours = await claim.renew(self._fetch, self._owed.subscriber, held, self._lease)
                    self._lost([token for token in held if token.seq not in ours])
            except DATABASE_AWAY as error:
                logfire.warn("Leases were not renewed: {error}", error=repr(error))
            except Exception as error:
                # Whatever it is, the next renewal comes in time: two of three may fail.
                logfire.error(
                    "Leases were not renewed: {error}", error=repr(error), _exc_info=error
                )

    def _give_up(self) -> None:
        """Renew no longer what nobody works on: its lease expires, and a free worker takes it."""
        abandoned = self._in_flight.abandoned()
        for each in abandoned:
            logfire.error(
                "Nobody works on {delivery} any more: its lease is no longer renewed",
                delivery=str(each),
                seq=each.token.seq,
                worked_on=each.blocks > 0,
            )
        self._lost([each.token for each in abandoned])

    def _lost(self, tokens: list[Token]) -> None:
        for token in tokens:
            self._returns.note(token.scope)
        self.settled(tokens)

    async def _release_buffered(self) -> None:
        """Return what is buffered for a consumer that has stopped asking."""
        buffered = [token for _, token in self._unread]
        self._unread.clear()
        if buffered:
            logfire.error(
                "The consumer takes no events any more: {count} buffered ones are released",
                count=len(buffered),
            )
            await self._hand_back(buffered)

    async def _close(self, claiming: asyncio.Task[None]) -> None:
        """Hand back what is in hand, and what a claim that is under way still brings."""
        await asyncio.wait([claiming], timeout=COMMIT_TIMEOUT)
        claiming.cancel()  # the server is silent: the leases run out
        await asyncio.wait([claiming])
        with contextlib.suppress(TimeoutError):  # the server is silent: the leases expire
            await asyncio.wait_for(self._hand_back(self._in_flight.tokens()), COMMIT_TIMEOUT)
        await self._lane.close()

    async def _hand_back(
        self, unsettled: Iterable[Token], delay: Seconds = 0, reason: str | None = None
    ) -> bool:
        tokens = list(unsettled)
        self._lost(tokens)
        if not tokens:
            return True
        try:
            await claim.hand_back(self._fetch, self._owed.subscriber, tokens, delay, reason)
            self._wake.announce()
        except DATABASE_AWAY as error:
            # Nothing is lost: the leases run out.
            logfire.warn("Events were not handed back: {error}", error=repr(error))
            return False
        return True


def _raise_if_ended(claiming: "asyncio.Task[None]", renewing: "asyncio.Task[None]") -> None:
    """Raise what ended a task of the subscription, if anything but `stop` did.

    Raises:
        RuntimeError: one was cancelled by other code.
    """
    for task, work in ((renewing, "renewing leases"), (claiming, "claiming events")):
        if task.done() and task.cancelled():
            raise RuntimeError(f"{work} was cancelled by other code")
        if task.done() and (error := task.exception()):
            raise error
