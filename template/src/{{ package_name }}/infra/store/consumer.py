"""A consumer's stream of deliveries: claimed as capacity frees up, leased while in flight.

`Claiming` fills the `Buffer`, from which `Consumer.events` yields. `LeaseRenewal` renews the leases meanwhile.
When the stream closes, `Releases` returns the unsettled deliveries without spending an attempt.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterable, Sequence

from ...config import Settings
from ...core.events import Event
from ...core.units import Scope, Seconds
from ..database import COMMIT_TIMEOUT, Fetch
from .buffer import Buffer
from .claim import Token
from .claiming import Claiming
from .clock import Clock
from .codec import NewerEvent, Unreadable, decode
from .consumer_config import ConsumerConfig
from .dedicated import DedicatedConnection
from .inflight import Delivery, InFlight
from .lease_renewal import LeaseRenewal
from .notifier import Notifier
from .releases import Releases
from .requeues import Requeues
from .unreadable_deliveries import UnreadableDeliveries


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
        self.subscriber = config.subscriber
        """The name of the subscriber."""
        self._connection = connection
        self._in_flight = in_flight = InFlight(settings, config.batch_size)
        self._buffer = buffer = Buffer()
        self._claiming = Claiming(
            connection.fetch, notifier, clock, config, requeues, in_flight, buffer, settings
        )
        self._releases = Releases(fetch, notifier, self.subscriber, requeues, self._claiming)
        self._renewal = LeaseRenewal(
            fetch, self.subscriber, in_flight, buffer, self._releases, settings
        )
        self._unreadable = UnreadableDeliveries(
            fetch, self.subscriber, self._claiming, self._releases
        )
        self._task: asyncio.Task[object] | None = None

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
        buffer, claiming = self._buffer, self._claiming
        self._task = asyncio.current_task()
        claims = claiming.start(consumers)
        renewals = asyncio.create_task(self._renewal.run())
        for task in (renewals, claims):
            task.add_done_callback(lambda _: buffer.arrived.set())
        consumers.add(self)
        try:
            while not (claims.done() or renewals.done()):
                await buffer.arrived.wait()
                buffer.arrived.clear()
                while buffer and not claiming.is_stopping and self._in_flight.has_capacity:
                    if (event := await self._next_event()) is None:
                        continue
                    yield event
                    self._in_flight.is_waiting = True
                    self._task = asyncio.current_task()
            _raise_if_ended(claims, renewals)
            await self._releases.release(buffer.clear())
            await claiming.all_settled()
        finally:
            self.stop()
            renewals.cancel()
            claiming.unsubscribe()
            await asyncio.shield(self._close(claims))
            consumers.discard(self)

    def stop(self) -> None:
        """Stop claiming and yielding."""
        self._claiming.stop()

    def pause(self, seconds: Seconds) -> None:
        """Claim nothing for `seconds`."""
        self._claiming.pause(seconds)

    def defer(
        self, scope: Scope, seconds: Seconds, *, for_capacity: bool = False, busy: bool = False
    ) -> list[Token]:
        """Claim nothing of a scope for `seconds`; return its buffered deliveries, for the caller to release.

        Deferrals of a scope that another handler keeps `busy` get longer, see `Deferrals`.
        """
        self._claiming.deferrals.add(scope, seconds, for_capacity=for_capacity, busy=busy)
        return self._buffer.take(scope)

    def resume_deferred_scopes(self) -> None:
        """End the deferrals that were made for capacity."""
        self._claiming.resume_deferred_scopes()

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._claiming.is_stopping

    @property
    def is_ending(self) -> bool:
        """Whether `stop` was called, or its task is being cancelled or has ended."""
        task = self._task
        return self.is_stopping or task is None or task.done() or task.cancelling() > 0

    @property
    def task(self) -> "asyncio.Task[object] | None":
        """The task that iterates over the events."""
        return self._task

    def has(self, tokens: Iterable[Token]) -> bool:
        """Return whether one of these deliveries is in flight here."""
        for token in tokens:
            if token in self._in_flight:
                return True
        return False

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
        return await self._releases.release_with_unconfirmed(self._in_flight.tokens())

    def settled(self, tokens: Sequence[Token], *, final: bool = False) -> None:
        """Remove deliveries from those in flight, which frees capacity; see `Claiming.settled`."""
        self._claiming.settled(tokens, final=final)

    async def _next_event(self) -> tuple[Event, Token] | None:
        """Return the next buffered event; None if its lease was lost meanwhile, or if it is unreadable."""
        row, token = self._buffer.pop()
        if token not in self._in_flight:
            return None
        try:
            event = decode(row)
        except (Unreadable, NewerEvent) as error:
            await self._unreadable.refuse(row, token, error)
            return None
        self._in_flight.mark_yielded(token, event.stored_weight)
        return event, token

    async def _close(self, claims: asyncio.Task[None]) -> None:
        """Wait for the claim under way, release everything in flight and close the connection."""
        await asyncio.wait([claims], timeout=COMMIT_TIMEOUT)
        claims.cancel()  # if the server does not answer, the leases expire
        await asyncio.wait([claims])
        with contextlib.suppress(TimeoutError):  # as above
            release = self._releases.release(self._in_flight.tokens())
            await asyncio.wait_for(release, COMMIT_TIMEOUT)
        await self._connection.close()


def _raise_if_ended(claims: "asyncio.Task[None]", renewals: "asyncio.Task[None]") -> None:
    """Raise the error that ended a task of the consumer, if any.

    Raises:
        RuntimeError: other code cancelled one.
    """
    for task, work in ((renewals, "renewing leases"), (claims, "claiming events")):
        if task.done() and task.cancelled():
            raise RuntimeError(f"{work} was cancelled by other code")
        if task.done() and (error := task.exception()):
            raise error
