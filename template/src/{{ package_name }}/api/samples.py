"""A sample of new events: their number, and the newest of them, for a reader that shows no more at once."""

import asyncio
from collections import deque

from ..infra.store import Stored
from ..infra.store.log import EventFilter

NEWEST = 10  # events that a sample keeps


class Sample:
    """The events since the last `take`, counted; the newest are kept as they are."""

    def __init__(self, event_filter: EventFilter) -> None:
        self._filter = event_filter
        self._count = 0
        self._newest = deque[Stored](maxlen=NEWEST)
        self._changed = asyncio.Event()

    def add(self, event: Stored) -> None:
        """Count an event if the filter includes it."""
        if self._filter.includes(event):
            self._count += 1
            self._newest.appendleft(event)
            self._changed.set()

    async def wait(self) -> None:
        """Wait until there is a new event."""
        await self._changed.wait()

    def take(self) -> tuple[int, list[Stored]]:
        """Return the number of new events, and the newest, newest first; begin a new sample."""
        taken = self._count, list(self._newest)
        self._changed.clear()
        self._count = 0
        self._newest.clear()
        return taken
