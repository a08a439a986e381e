"""Group commit: writes that arrive while a commit is under way share the next one.

Batches form without a timer and without added latency. A caller gets its result only after the commit that
includes its write.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial

import logfire

from ..database import COMMIT_TIMEOUT, DatabaseUnavailable

MAX_COMMIT_ITEMS = 1_000  # of one statement; with more, waiting costs more than sharing saves


class GroupCommit[Item, Result]:
    """Collects items while a commit is under way, and commits them together afterwards.

    `commit` gets the items and returns a result or an exception for each, in their order. If one item makes
    the whole statement fail, each is committed alone.
    """

    def __init__(
        self, commit: Callable[[list[Item]], Awaitable[Sequence[Result | Exception]]]
    ) -> None:
        self._commit = commit
        self._waiting: deque[tuple[Item, Callable[[Result | Exception], None]]] = deque()
        self._committing: asyncio.Task[None] | None = None

    def submit(self, item: Item) -> "asyncio.Future[Result]":
        """Queue an item; return a future that gets its result after the commit."""
        future = asyncio.get_running_loop().create_future()
        self.add(item, partial(_resolve, future))
        return future

    def add(self, item: Item, done: Callable[[Result | Exception], None]) -> None:
        """Queue an item, and call `done` with its result after the commit; `done` must not raise."""
        self._waiting.append((item, done))
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit_all())

    async def close(self) -> None:
        """Wait until all items are committed; after `COMMIT_TIMEOUT` the rest fail."""
        if self._committing is None or self._committing.done():
            return
        await asyncio.wait([self._committing], timeout=COMMIT_TIMEOUT)
        if not self._committing.done():
            self._committing.cancel()
            await asyncio.wait([self._committing])

    async def _commit_all(self) -> None:
        try:
            while self._waiting:
                count = min(MAX_COMMIT_ITEMS, len(self._waiting))
                await self._commit_some([self._waiting.popleft() for _ in range(count)])
                # Callers that got a result may submit more, which then share the next commit.
                await asyncio.sleep(0)
        finally:  # after a cancellation, no other task would give these a result
            waiting, self._waiting = self._waiting, deque()
            _report(waiting, [_interrupted()] * len(waiting))

    async def _commit_some(
        self, batch: list[tuple[Item, Callable[[Result | Exception], None]]]
    ) -> None:
        try:
            results = await self._commit([item for item, _ in batch])
        except Exception as error:
            if len(batch) > 1 and not isinstance(error, DatabaseUnavailable):
                for each in batch:
                    await self._commit_some([each])
                return
            results = [error] * len(batch)
        except BaseException:
            _report(batch, [_interrupted()] * len(batch))
            raise
        _report(batch, results)


def _interrupted() -> Exception:
    """Return the error of a commit whose outcome is unknown."""
    return DatabaseUnavailable("the commit was interrupted: repeat it, with the same ids")


def _report[Item, Result](
    batch: Iterable[tuple[Item, Callable[[Result | Exception], None]]],
    results: Sequence[Result | Exception],
) -> None:
    """Call back every caller, even if some of the callbacks raise."""
    for (_, done), result in zip(batch, results, strict=True):
        try:
            done(result)
        except Exception:
            logfire.exception("The callback of a commit failed")


def _resolve[Result](future: asyncio.Future[Result], result: Result | Exception) -> None:
    if future.done():  # its caller was cancelled
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
