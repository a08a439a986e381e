"""Work that its caller does not wait for: kept until it ends, and its end noticed."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import logfire

from ..core.types import Seconds


class Background:
    """Tasks without a caller that awaits them; a failed or cancelled one is logged as an error."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None], name: str) -> "asyncio.Task[None]":
        """Run the work in a task that is kept until its end."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def close(self, patience: Seconds) -> None:
        """Wait for all tasks to end, and cancel those that do not end in time, with a warning."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=patience)
        self._tasks -= late
        for task in late:
            logfire.warn("{name} did not end in time: it is cancelled", name=task.get_name())
            task.cancel()

    def _ended(self, task: "asyncio.Task[None]") -> None:
        if task not in self._tasks and task.cancelled():
            return  # by `close`, which has logged it
        self._tasks.discard(task)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is not None:
            logfire.error(
                "{name} did not end well: {error}",
                name=task.get_name(),
                error=repr(error),
                _exc_info=error,
            )
