"""Time limits for many short blocks, under one timer."""

import asyncio

from ..core.types import Seconds


class Deadlines:
    """Gives each block the same limit; a timer for each would take longer than most decisions.

    What started first ends first, so the timer stands at the oldest block's deadline.
    """

    def __init__(self, limit: Seconds) -> None:
        self.limit = limit
        self._ends: dict[asyncio.Timeout, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> asyncio.Timeout:
        """Return a block, to be entered at once: it is cancelled if no `end` comes in time."""
        loop = asyncio.get_running_loop()
        block = asyncio.timeout(None)
        self._ends[block] = loop.time() + self.limit
        if self._timer is None:
            self._timer = loop.call_at(self._ends[block], self._expire, loop)
        return block

    def end(self, block: asyncio.Timeout) -> None:
        """Forget a block that is over."""
        self._ends.pop(block, None)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        for block, end in list(self._ends.items()):
            if end > loop.time():
                self._timer = loop.call_at(end, self._expire, loop)
                return
            self.end(block)
            block.reschedule(end)
