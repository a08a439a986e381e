"""One consumer's stream of events: claimed as capacity frees up, leased while in hand.

What was claimed and not settled is *in hand*. It never exceeds the batch size, so a slow consumer
makes nothing grow; its leases are renewed; and what is left of it when the stream closes goes back
to the queue without having spent an attempt.
"""

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import NamedTuple

import logfire
from pydantic import ValidationError

from ...config import Settings
from ...core.events import Event
from ...core.types import Scope, Seconds
from ..database import DATABASE_AWAY, Fetch, Row
from . import claim, counters, settle
from .claim import Token
from .codec import NewerEvent, decode
from .lanes import Lane
from .settle import Backoff
from .wake import Wake

RENEWALS_PER_LEASE = 3  # two may fail before another worker takes over
CLAIM_MOST = 250  # at a time, so that the server claims while we handle the last ones
CLAIM_TIMEOUT: Seconds = 5.0  # of the last claim, when the subscription closes
AVOIDED_MOST = 1_000  # scopes: a claim compares each row with all of them
NEWER_DELAY: Seconds = 1.0  # for what only newer code can read
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


class Rest(NamedTuple):
    """How long a scope is left alone, by this process's monotonic clock."""

    until: float
    for_room: bool
    """Whether it is for want of room here, and not because another handler has the scope."""


class Subscription:
    """The state of one `EventStore.subscribe` call.

    Claims have a connection of their own (`lane`), so that nothing which a handler does waits for
    them; what is rare goes through the pool (`fetch`).
    """

    def __init__(
        self, lane: Lane, fetch: Fetch, wake: Wake, clock: Clock, owed: Owed, settings: Settings
    ) -> None:
        self._lane = lane
        self._fetch = fetch
        self._wake = wake
        self._clock = clock
        self._owed = owed
        self._lease = settings.event_lease
        self._fallback = settings.event_fallback_check
        self._in_hand: dict[int, Token] = {}
        self._unread: deque[tuple[Row, Token]] = deque()
        """What is in hand and was not yielded yet."""
        self._arrived = asyncio.Event()
        self._changed = asyncio.Event()
        self._next_recovery = 0.0
        self._orphaned = False
        self._paused_until = 0.0
        self._avoided: dict[Scope, Rest] = {}
        """Scopes whose events would only be handed back."""
        self._stopping = False

    async def events(self, among: set["Subscription"]) -> AsyncGenerator[tuple[Event, Token]]:
        """Yield events and the tokens that settle them, for as long as the caller asks.

        After `stop` it ends as soon as everything that was yielded is settled. While it lasts it is
        one of those `among` which settled tokens are looked for.
        """
        self._changed = self._wake.subscribe()
        renewing = asyncio.create_task(self._renew())
        claiming = asyncio.create_task(self._claim_all())
        claiming.add_done_callback(lambda _: self._arrived.set())
        among.add(self)
        try:
            while not claiming.done():
                await self._arrived.wait()
                self._arrived.clear()
                while self._unread and not self._stopping:
                    row, token = self._unread.popleft()
                    if self._in_hand.get(token.seq) is not token:
                        continue  # its lease was lost while it waited
                    try:
                        event = decode(row)
                    except (ValidationError, NewerEvent) as error:
                        await self._refuse(row, token, error)
                    else:
                        yield event, token
            await claiming  # it may have failed
            await self._hand_back([token for _, token in self._unread])
            while self._in_hand:
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

    def avoid(self, scope: Scope, rest: Rest) -> list[Token]:
        """Claim nothing of a scope for a while; return what of it was claimed and not yielded yet."""
        if len(self._avoided) >= AVOIDED_MOST:
            del self._avoided[next(iter(self._avoided))]
        self._avoided[scope] = rest
        unread = list(self._unread)
        self._unread.clear()
        self._unread.extend(each for each in unread if each[0]["scope"] != scope)
        return [token for row, token in unread if row["scope"] == scope]

    def look_again(self) -> None:
        """Claim of scopes again for whose events there was no room."""
        crowded = [scope for scope, rest in self._avoided.items() if rest.for_room]
        for scope in crowded:
            del self._avoided[scope]
        if crowded:
            self._changed.set()

    def settled(self, tokens: Iterable[Token]) -> None:
        """Note that these deliveries are no longer in hand, which frees capacity.

        A stale token says nothing of the same event under its new fence.
        """
        for token in tokens:
            if self._in_hand.get(token.seq) == token:
                del self._in_hand[token.seq]
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
                logfire.warn("The queue cannot be read: {error}", error=repr(error))
                await self._pause(pause * random.uniform(0.5, 1.0))  # noqa: S311 - only jitter
                pause = min(pause * 2, LONGEST_PAUSE)

    async def _claim(self) -> bool:
        """Claim for the free capacity; orphans come first, and each of them alone."""
        paused = time.monotonic() < self._paused_until
        if paused or any(token.alone for token in self._in_hand.values()):
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
        self._orphaned = await claim.any_orphaned(self._lane.fetch, who, types)
        return self._orphaned

    def _room(self) -> int:
        """Return how many to claim now; none while few could be and some are still unread."""
        most = min(CLAIM_MOST, self._owed.batch_size)
        room = min(most, self._owed.batch_size - len(self._in_hand))
        return 0 if self._unread and room < most / 2 else room

    async def _claim_orphan(self) -> bool:
        if self._in_hand:
            return False  # wait until the hand is empty: who dies next must die alone
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
        """Put claimed rows in hand; False if there are none."""
        for row in rows:
            token = Token(row["seq"], row["fence"], alone, row["attempts"], row["scope"])
            self._in_hand[token.seq] = token
            self._unread.append((row, token))
        if rows:
            self._clock.set(claim.claimed_at(rows[0]["fence"]))
            self._arrived.set()
        return bool(rows)

    async def _refuse(self, row: Row, token: Token, error: ValidationError | NewerEvent) -> None:
        """Dead-letter what no longer validates.

        What newer code wrote, as happens while a deploy is under way, waits for a worker that has it.
        """
        if isinstance(error, NewerEvent):
            logfire.warn("Left to a worker with newer code: {reason}", reason=str(error))
            await self._hand_back([token], NEWER_DELAY)
        else:
            await self._dead_letter(token, row, error)
            self.settled([token])

    async def _dead_letter(self, token: Token, row: Row, error: ValidationError) -> None:
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
        while True:
            await asyncio.sleep(self._lease / RENEWALS_PER_LEASE)
            held = list(self._in_hand.values())
            if not held:
                continue
            try:
                ours = await claim.renew(self._fetch, self._owed.subscriber, held, self._lease)
            except DATABASE_AWAY as error:
                logfire.warn("Leases were not renewed: {error}", error=repr(error))
                continue
            self.settled(token for token in held if token.seq not in ours)

    async def _close(self, claiming: asyncio.Task[None]) -> None:
        """Hand back what is in hand, and what a claim that is under way still brings."""
        await asyncio.wait([claiming], timeout=CLAIM_TIMEOUT)
        claiming.cancel()  # the server is silent: the leases run out
        await asyncio.wait([claiming])
        await self._hand_back(self._in_hand.values())
        await self._lane.close()

    async def _hand_back(self, unsettled: Iterable[Token], delay: Seconds = 0) -> None:
        tokens = list(unsettled)
        self.settled(tokens)
        if not tokens:
            return
        try:
            await claim.hand_back(self._fetch, self._owed.subscriber, tokens, delay)
            self._wake.announce()
        except DATABASE_AWAY as error:
            # Nothing is lost: the leases run out.
            logfire.warn("Events were not handed back: {error}", error=repr(error))
