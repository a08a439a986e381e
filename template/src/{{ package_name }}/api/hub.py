"""Telling many clients of new events while reading the log once.

A client that does not read its messages is dropped: what it missed waits in the log for it.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from typing import NamedTuple

from ..config import Settings
from ..core.types import Scope, Seconds
from ..infra.store import Cursor, EventStore, Stored
from ..infra.store.log import Wanted
from ..infra.supervise import Supervised
from ..runtime import Service

END_TIMEOUT: Seconds = 2.0  # the connection that it reads from is closed a little later


class TooSlow(Exception):
    """The client did not read its messages in time."""


class TooMany(Exception):
    """The process serves as many clients as it may."""


class Wants(NamedTuple):
    """Which events a client wants."""

    types: list[str] | None = None
    scope: Scope | None = None

    def includes(self, event: Stored) -> bool:
        """Tell whether an event is among them."""
        of_type = self.types is None or event.type in self.types
        return of_type and self.scope in (None, event.scope)


class _Client:
    def __init__(self, wants: Wants, size: int) -> None:
        self.wants = wants
        self.queue: asyncio.Queue[tuple[Cursor, Stored]] = asyncio.Queue(size)
        self.too_slow = False

    def offer(self, cursor: Cursor, event: Stored) -> None:
        """Queue what the client wants; note that it cannot follow."""
        if self.wants.includes(event):
            try:
                self.queue.put_nowait((cursor, event))
            except asyncio.QueueFull:
                self.too_slow = True


class Hub:
    """Hands the events of the log to the clients of this process."""

    def __init__(self, store: EventStore, settings: Settings, start: Cursor) -> None:
        self._store = store
        self._place = start
        self._settings = settings
        self._clients: set[_Client] = set()
        self._wanted = asyncio.Event()

    @property
    def full(self) -> bool:
        """Whether another client would be one too many."""
        return len(self._clients) >= self._settings.api_max_connections

    @property
    def is_following(self) -> bool:
        """Whether the log is followed: not before the first client, nor long after the last one."""
        return self._wanted.is_set()

    async def run(self) -> None:
        """Follow the log until cancelled, while there are clients."""
        while True:
            await self._wanted.wait()
            async with aclosing(self._store.log.follow(self._place, Wanted())) as found:
                async for cursor, event in found:
                    self._place = cursor
                    for client in self._clients:
                        client.offer(cursor, event)
                    if not self._clients:
                        self._wanted.clear()
                        break

    async def _begin(self) -> None:
        """Follow the log from now on; clients read by themselves what came before."""
        if not self._wanted.is_set():
            now = await self._store.end()
            if not self._wanted.is_set():  # another client may have come first
                self._place = now
                self._wanted.set()

    async def listen(
        self, wants: Wants, after: Cursor | None = None
    ) -> AsyncGenerator[tuple[Cursor, Stored | None]]:
        """Yield a client's events as they commit; with `after`, first what it missed since.

        What this code cannot read comes as an `UnreadableEvent`. Each comes with the cursor to resume from. None comes once, when the client has caught up.

        Raises:
            TooMany: the process serves as many clients as it may.
            TooSlow: the client left too many of them unread.
        """
        if self.full:
            raise TooMany("this process serves as many clients as API_MAX_CONNECTIONS allows")
        client = _Client(wants, self._settings.api_client_queue)
        self._clients.add(client)
        try:
            await self._begin()
            start = place = after or await self._store.end()
            async for place, event in self._store.log.read_on(start, Wanted(*wants)):
                yield place, event
            while not client.too_slow:
                cursor, event = await client.queue.get()
                if not place.covers(cursor.tx, cursor.seq):
                    yield cursor.for_one_who_saw(place.until), event
            raise TooSlow(f"more than {client.queue.maxsize} messages were left unread")
        finally:
            self._clients.discard(client)


@asynccontextmanager
async def open_hub(service: Service) -> AsyncGenerator[Hub]:
    """Give a hub that follows the log for the block, as one of the service's tasks."""
    hub = Hub(service.store, service.settings, await service.store.end())
    task = Supervised("hub", hub.run)
    service.tasks.append(task)
    following = asyncio.create_task(task.run())
    try:
        yield hub
    finally:
        service.tasks.remove(task)
        following.cancel()
        await asyncio.wait([following], timeout=END_TIMEOUT)
