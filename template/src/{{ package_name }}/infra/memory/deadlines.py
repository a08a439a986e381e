"""Time limits of many short blocks, with one timer."""

import asyncio

from ...core.units import Seconds
from ..database import DatabaseUnavailable, was_database_wait


class Deadlines:
    """Gives every block the same time limit; a timer for each would take longer than most decisions.

    The block that started first expires first, so one timer, at the oldest deadline, is enough.
    """

    def __init__(self, limit: Seconds) -> None:
        self.limit = limit
        self._ends: dict[asyncio.Timeout, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> asyncio.Timeout:
        """Return a block to enter at once; it is cancelled unless `end` is called within the limit."""
        loop = asyncio.get_running_loop()
        block = asyncio.timeout(None)
        self._ends[block] = loop.time() + self.limit
        if self._timer is None:
            self._timer = loop.call_at(self._ends[block], self._expire, loop)
        return block

    def check(self, block: asyncio.Timeout, error: BaseException) -> None:
        """Name the limit if `error` ended the block because of it.

        Raises:
            TimeoutError: the block exceeded its time limit.
            DatabaseUnavailable: it did so while it waited for the database.
        """
        caused = isinstance(
            error.__cause__, asyncio.CancelledError
        )  # as `asyncio.timeout` raises it
        if not (block.expired() and type(error) is TimeoutError and caused):
            return
        message = f"the decision took longer than {self.limit:g} s"
        if was_database_wait(error.__cause__):
            raise DatabaseUnavailable(f"{message}, and waited for it at the end") from error
        raise TimeoutError(message) from error

    def end(self, block: asyncio.Timeout) -> None:
        """Remove a block that has ended."""
        self._ends.pop(block, None)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        for block, end in list(self._ends.items()):
            if end > loop.time():
                self._timer = loop.call_at(end, self._expire, loop)
                return
            self.end(block)
            block.reschedule(end)
