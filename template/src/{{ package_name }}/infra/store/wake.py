"""Waking those who wait for events: in this process at once, in others by NOTIFY.

NOTIFY is sent after the commit, coalesced, by a task of its own: inside a commit it takes a lock
that all publishers of the server queue for. A wake-up that is lost, with a process that dies before
sending it or a connection that breaks, costs one fallback check and never an event.
"""

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg
import logfire
from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from ...core.types import Seconds
from ..background import Background
from ..database import CLOSE_TIMEOUT, DatabaseUnavailable, Fetch
from ..supervise import Supervised
from .lanes import CHECK

CHANNEL = "events"
PING_INTERVAL: Seconds = 10.0  # a half-open socket says nothing; only asking it does
RECONNECT_LONGEST: Seconds = 5.0
NOTIFY_INTERVAL: Seconds = 0.01  # the first of a burst is sent at once, the rest in one go
NOTIFY = "SELECT pg_notify('events', '')"


class Wake:
    """Tells the subscribers of this process that there may be something new."""

    def __init__(self, fetch: Fetch, connect: Callable[[], Awaitable[asyncpg.Connection]]) -> None:
        self._fetch = fetch
        self._connect = connect
        self._waiting: set[asyncio.Event] = set()
        self._listener: asyncio.Task[None] | None = None
        self._notifier: asyncio.Task[None] | None = None
        self._background = Background()
        self._again = False
        self._connection: asyncpg.Connection | None = None
        self._turn = asyncio.Lock()  # a connection runs one statement at a time
        self._interrupted: str | None = None
        """Why nobody listens at the moment."""

    def announce(self) -> None:
        """Wake this process now, and the others by a NOTIFY that several calls share."""
        self.wake_here()
        self._again = True
        if self._notifier is None or self._notifier.done():
            self._notifier = self._background.start(self._notify(), "sending a wake-up")

    def wake_here(self) -> None:
        """Wake the subscribers of this process."""
        for event in self._waiting:
            event.set()

    def subscribe(self) -> asyncio.Event:
        """Return an event that is set by every wake-up; give it back to `unsubscribe`."""
        if self._listener is None:
            # Whatever ends it, it is restarted: without it each event waits for a fallback check.
            self._listener = asyncio.create_task(Supervised("listening", self._listen).run())
        event = asyncio.Event()
        self._waiting.add(event)
        return event

    def unsubscribe(self, event: asyncio.Event) -> None:
        """Stop waking this event."""
        self._waiting.discard(event)

    async def check(self) -> None:
        """Ask the listening connection for an answer, if there is to be one.

        Raises:
            DatabaseUnavailable: nobody listens, or there is no answer.
        """
        if self._interrupted is not None:
            raise DatabaseUnavailable(self._interrupted)
        if self._connection is not None:
            await self._ping(self._connection)

    async def close(self) -> None:
        """Send what is still to be announced, within `CLOSE_TIMEOUT`, and stop listening."""
        await self._background.close(CLOSE_TIMEOUT)
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)

    async def _notify(self) -> None:
        while self._again:
            self._again = False
            try:
                await self._fetch(NOTIFY)
                await asyncio.sleep(NOTIFY_INTERVAL)
            except DatabaseUnavailable as error:
                # The other processes find the events by their fallback check.
                logfire.warn("A wake-up was not sent: {error}", error=repr(error))

    async def _listen(self) -> None:
        """Hold one connection that listens; replace it whenever it dies."""
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(Exception),
            wait=wait_random_exponential(multiplier=0.1, max=RECONNECT_LONGEST),
        )
        await retrying(self._listen_noting)

    async def _listen_noting(self) -> None:
        try:
            await self._listen_once()
        except Exception as error:
            self._interrupted = str(error) or type(error).__name__
            logfire.warn("Listening for events was interrupted: {error}", error=repr(error))
            raise

    def _heard(self, *_: object) -> None:
        self.wake_here()

    async def _listen_once(self) -> None:
        connection = await self._connect()
        lost = asyncio.Event()
        connection.add_termination_listener(lambda _: lost.set())
        try:
            async with asyncio.timeout(PING_INTERVAL):
                await connection.add_listener(CHANNEL, self._heard)
            self._connection, self._interrupted = connection, None
            self.wake_here()  # what was published while nobody listened
            while not lost.is_set():
                await self._ping(connection)
                try:
                    await asyncio.wait_for(lost.wait(), PING_INTERVAL)
                except TimeoutError:
                    continue
            raise DatabaseUnavailable("the listening connection was closed")
        finally:
            self._connection = None
            connection.terminate()

    async def _ping(self, connection: asyncpg.Connection) -> None:
        """Expect an answer within `PING_INTERVAL`, or end the connection."""
        async with self._turn:
            try:
                await connection.fetchval(CHECK, timeout=PING_INTERVAL)
            except TimeoutError as error:
                raise DatabaseUnavailable("the listening connection is slow") from error
