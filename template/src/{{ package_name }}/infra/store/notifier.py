"""Wakes subscribers: those of this process at once, those of other processes by NOTIFY.

A background task sends one NOTIFY for several commits, after them: inside a transaction, NOTIFY takes a lock that
serializes all commits of the server. If a wake-up is lost with its process or connection, the fallback check
finds the event later.
"""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import uuid4

import asyncpg
import logfire
from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from ...core.units import Seconds
from ..database import CLOSE_TIMEOUT, DatabaseUnavailable, Fetch
from ..process.background import BackgroundTasks
from ..process.supervise import Supervised
from .dedicated import CHECK

CHANNEL = "events"
PING_INTERVAL: Seconds = 10.0  # between pings, which detect a half-open socket
MAX_RECONNECT_PAUSE: Seconds = 5.0
NOTIFY_INTERVAL: Seconds = 0.01  # between two NOTIFYs of a burst
NOTIFY = "SELECT pg_notify('events', '')"
NOTIFY_OTHERS = "SELECT pg_notify('events', $1::text)"
"""The payload is the sender's name, so that it ignores its own: a wake-up would cost it an empty claim."""


class Notifier:
    """Sends wake-ups, listens for those of other processes, and wakes this process's subscribers."""

    def __init__(self, fetch: Fetch, connect: Callable[[], Awaitable[asyncpg.Connection]]) -> None:
        self._fetch = fetch
        self._connect = connect
        self._subscribers: set[asyncio.Event] = set()
        self._listener: asyncio.Task[object] | None = None
        self._sender: asyncio.Task[object] | None = None
        self._background = BackgroundTasks()
        self._pending = False
        self._name = uuid4().hex
        self._connection: asyncpg.Connection | None = None
        self._turn = asyncio.Lock()  # a connection runs one statement at a time
        self._channels: dict[str, Callable[[str], None]] = {CHANNEL: self._on_wake_up}
        """What is called with each payload, by channel."""
        self._listen_error: str | None = None
        """The error that ended listening; None while it works."""

    def notify(self) -> None:
        """Wake this process's subscribers now, and the others by a NOTIFY that several calls share."""
        self.wake_local()
        self._pending = True
        if self._sender is None or self._sender.done():
            self._sender = self._background.start(self._send_notifications(), "sending a wake-up")

    def wake_local(self) -> None:
        """Wake the subscribers of this process."""
        for event in self._subscribers:
            event.set()

    def subscribe(self) -> asyncio.Event:
        """Return an event that every wake-up sets; pass it to `unsubscribe` in the end."""
        self._start_listening()
        event = asyncio.Event()
        self._subscribers.add(event)
        return event

    def unsubscribe(self, event: asyncio.Event) -> None:
        """Stop waking this event."""
        self._subscribers.discard(event)

    def listen(self, channel: str, receive: Callable[[str], None]) -> None:
        """Call `receive` with each payload of another channel; payloads are lost while the connection is replaced."""
        if channel not in self._channels:
            self._channels[channel] = receive
            if self._connection is not None:
                self._background.start(self._add(self._connection, channel), "listening")
        self._start_listening()

    async def check(self) -> None:
        """Query the listening connection, if there is one.

        Raises:
            DatabaseUnavailable: the connection was lost, or does not answer.
        """
        if self._listen_error is not None:
            raise DatabaseUnavailable(self._listen_error)
        if self._connection is not None:
            await self._ping(self._connection)

    async def close(self) -> None:
        """Send the pending wake-up within `CLOSE_TIMEOUT`, and stop listening."""
        await self._background.close(CLOSE_TIMEOUT)
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)

    async def _send_notifications(self) -> None:
        while self._pending:
            self._pending = False
            try:
                await self._fetch(NOTIFY_OTHERS, self._name)
                await asyncio.sleep(NOTIFY_INTERVAL)
            except DatabaseUnavailable as error:
                # The fallback checks of other processes find the events.
                logfire.warn("A wake-up was not sent: {error}", error=repr(error))

    def _start_listening(self) -> None:
        if self._listener is None:
            # Restarted after any error: without it, each event waits for a fallback check.
            self._listener = asyncio.create_task(Supervised("listening", self._listen).run())

    async def _listen(self) -> None:
        """Listen on one connection, and replace it whenever it is lost."""
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(Exception),
            wait=wait_random_exponential(multiplier=0.1, max=MAX_RECONNECT_PAUSE),
        )
        await retrying(self._listen_recording_errors)

    async def _listen_recording_errors(self) -> None:
        try:
            await self._listen_once()
        except Exception as error:
            self._listen_error = str(error) or type(error).__name__
            logfire.warn("Listening for events was interrupted: {error}", error=repr(error))
            raise

    def _on_notification(
        self, _connection: object, _pid: int, channel: str, payload: object
    ) -> None:
        self._channels[channel](str(payload))

    def _on_wake_up(self, sender: str) -> None:
        if sender != self._name:
            self.wake_local()

    async def _listen_once(self) -> None:
        connection = await self._connect()
        lost = asyncio.Event()
        connection.add_termination_listener(lambda _: lost.set())
        try:
            added = set[str]()
            while missing := self._channels.keys() - added:  # another may come meanwhile
                async with asyncio.timeout(PING_INTERVAL):
                    for channel in missing:
                        await connection.add_listener(channel, self._on_notification)
                added |= missing
            self._connection, self._listen_error = connection, None
            self.wake_local()  # for events published while it did not listen
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

    async def _add(self, connection: asyncpg.Connection, channel: str) -> None:
        """Listen to one more channel; if that fails, replace the connection."""
        try:
            async with self._turn, asyncio.timeout(PING_INTERVAL):
                await connection.add_listener(channel, self._on_notification)
        except (DatabaseUnavailable, asyncpg.InterfaceError, TimeoutError):
            connection.terminate()

    async def _ping(self, connection: asyncpg.Connection) -> None:
        """Query the connection.

        Raises:
            DatabaseUnavailable: it does not answer within `PING_INTERVAL`.
        """
        async with self._turn:
            try:
                await connection.fetchval(CHECK, timeout=PING_INTERVAL)
            except TimeoutError as error:
                raise DatabaseUnavailable("the listening connection is slow") from error
