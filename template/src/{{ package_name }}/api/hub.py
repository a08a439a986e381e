"""Stream new events to many clients while reading the log once.

A client that does not read its messages is disconnected. It can resume from its cursor.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager

from ..config import Settings
from ..core.units import Seconds
from ..infra.process.supervise import Supervised
from ..infra.store import Cursor, EventStore, Stored
from ..infra.store.log import EventFilter
from ..runtime import Service
from .messages import ClientQueue, Message, UnsentBytes, longest_queue
from .samples import Sample

STOP_TIMEOUT: Seconds = 2.0  # the database connection is closed afterwards


class ClientTooSlow(Exception):
    """The client does not read its messages in time."""


class TooManyClients(Exception):
    """The process serves the maximum number of clients."""


class Hub:
    """Dispatch the events of the log to the clients of this process."""

    def __init__(self, store: EventStore, settings: Settings) -> None:
        self._store = store
        self._position: Cursor | None = None
        self._settings = settings
        self._clients: set[ClientQueue] = set()
        self._samples: set[Sample] = set()
        self._unsent = UnsentBytes(settings.api_max_unsent_bytes)
        self._catch_up_lock = asyncio.Lock()
        self._has_clients = asyncio.Event()

    @property
    def full(self) -> bool:
        """Whether the process serves the maximum number of clients."""
        most = self._settings.api_max_connections
        return len(self._clients) + len(self._samples) >= most

    @property
    def unsent(self) -> int:
        """The bytes of all messages that are queued for a client or being sent."""
        return self._unsent.bytes

    @property
    def is_following(self) -> bool:
        """Whether the log is followed, which happens while there are clients."""
        return self._has_clients.is_set()

    async def run(self) -> None:
        """Follow the log until cancelled, while there are clients."""
        while True:
            await self._has_clients.wait()
            async with aclosing(self._store.log.follow(self._position, EventFilter())) as found:
                async for cursor, event in found:
                    self._position = cursor
                    self._dispatch(cursor, event)
                    if not self._clients and not self._samples:
                        self._has_clients.clear()
                        break

    def _dispatch(self, cursor: Cursor, event: Stored) -> None:
        for sample in self._samples:
            sample.add(event)
        recipients = [client for client in self._clients if client.event_filter.includes(event)]
        if not recipients:
            return
        message = Message(event)
        for client in recipients:
            client.put(cursor, message)
        while self._unsent.bytes > self._unsent.limit and (client := longest_queue(self._clients)):
            most = f"{self._unsent.limit} bytes (API_MAX_UNSENT_BYTES)"
            client.disconnect(f"more than {most} were left unread by all clients together")

    async def _ensure_following(self) -> None:
        """Start to follow the log from its end; each client reads earlier events itself."""
        if not self._has_clients.is_set():
            now = await self._store.end()
            if not self._has_clients.is_set():  # another client may have come first
                self._position = now
                self._has_clients.set()

    async def listen(
        self, event_filter: EventFilter, after: Cursor | None = None
    ) -> AsyncGenerator[tuple[Cursor, Message | None]]:
        """Yield a client's events as they commit; with `after`, first the events since that cursor.

        Each event comes with the cursor to resume from. An event that this code cannot read comes as it
        is stored, with the reason. None comes once, when the client has caught up.

        Raises:
            TooManyClients: the process serves the maximum number of clients.
            ClientTooSlow: the client left too many messages unread.
        """
        self._check_capacity()
        client = ClientQueue(event_filter, self._settings, self._unsent)
        self._clients.add(client)
        try:
            await self._ensure_following()
            place = after or await self._store.end()
            async with aclosing(self._catch_up(client, place)) as missed:
                async for place, message in missed:
                    yield place, message
            while (found := await client.get()) is not None:
                cursor, message = found
                if not place.covers(cursor.tx, cursor.seq):
                    yield cursor.starting_from(place.until), message
            raise ClientTooSlow(client.disconnect_reason)
        finally:
            self._clients.discard(client)
            client.close()

    @asynccontextmanager
    async def sample(self, event_filter: EventFilter) -> AsyncGenerator[Sample]:
        """Count new events for the block, and keep the newest; nothing is encoded for it.

        Raises:
            TooManyClients: the process serves the maximum number of clients.
        """
        self._check_capacity()
        sample = Sample(event_filter)
        self._samples.add(sample)
        try:
            await self._ensure_following()
            yield sample
        finally:
            self._samples.discard(sample)

    def _check_capacity(self) -> None:
        if self.full:
            raise TooManyClients(
                "this process serves as many clients as API_MAX_CONNECTIONS allows"
            )

    async def _catch_up(
        self, client: ClientQueue, start: Cursor
    ) -> AsyncGenerator[tuple[Cursor, Message | None]]:
        """Yield the events since a cursor; one client reads at a time, while there is capacity."""
        async with aclosing(self._store.log.read_on(start, client.event_filter)) as found:
            while True:
                client.end_send()
                async with self._catch_up_lock:
                    await self._unsent.wait_for_capacity()
                    place, event = await anext(found)
                    if event is None:
                        break
                    message = Message(event)
                    client.begin_send(message)
                del event  # while a slow client reads, only the encoded message stays in memory
                yield place, message
        yield place, None


@asynccontextmanager
async def open_hub(service: Service) -> AsyncGenerator[Hub]:
    """Run a hub for the block, as one of the service's tasks."""
    hub = Hub(service.store, service.settings)
    task = Supervised("hub", hub.run)
    service.tasks.append(task)
    following = asyncio.create_task(task.run())
    try:
        yield hub
    finally:
        service.tasks.remove(task)
        following.cancel()
        await asyncio.wait([following], timeout=STOP_TIMEOUT)
