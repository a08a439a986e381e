"""Background tasks: references that keep them alive, and a log of their failures."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import logfire

from ...core.units import Seconds


class BackgroundTasks:
    """Tasks that no caller awaits; a failed or cancelled one is logged as an error."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[object]] = set()

    def start(self, work: Coroutine[Any, Any, object], name: str) -> "asyncio.Task[object]":
        """Run a coroutine in a task, and keep a reference until it ends."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def close(self, patience: Seconds) -> None:
        """Wait `patience` seconds for all tasks; cancel the others, with a warning."""
        if not self._tasks:
            return
        _, pending = await asyncio.wait(self._tasks, timeout=patience)
        self._tasks -= pending
        for task in pending:
            logfire.warn("{name} did not end in time: it is cancelled", name=task.get_name())
            task.cancel()

    def _ended(self, task: "asyncio.Task[object]") -> None:
        if task not in self._tasks and task.cancelled():
            return  # by `close`, which has logged it
        self._tasks.discard(task)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is not None:
            logfire.error(
                "{name} failed: {error}",
                name=task.get_name(),
                error=repr(error),
                _exc_info=error,
            )
