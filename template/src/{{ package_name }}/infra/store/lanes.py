"""Lanes: connections of the store's own, on which what comes in meanwhile shares the next commit.

A lane carries one kind of work. While a flush is under way its successors queue, and the next flush
takes them all: natural batching, with no timer and no added latency. A caller goes on only after
the commit that covers it.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial

import asyncpg
import logfire

from ...core.types import Seconds
from ..database import DATABASE_AWAY, Row

FLUSH_MOST = 1_000  # items a statement: beyond it, waiting costs more than sharing saves

CLOSE_TIMEOUT: Seconds = 2.0  # a server that does not say goodbye is left without

type Connect = Callable[[], Awaitable[asyncpg.Connection]]


class Lane:
    """One dedicated connection, opened when it is first needed and replaced when it has died."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._connection: asyncpg.Connection | None = None
        self._turn = asyncio.Lock()  # a connection runs one statement at a time

    async def fetch(self, sql: str, /, *args: object) -> Sequence[Row]:
        """Run one statement, in a transaction of its own, and return its rows."""
        async with self._turn:
            if self._connection is None or self._connection.is_closed():
                self._connection = await self._connect()
            return await self._connection.fetch(sql, *args)

    async def close(self) -> None:
        """Close the connection once what runs on it is done."""
        async with self._turn:
            if self._connection is not None:
                with contextlib.suppress(*DATABASE_AWAY):  # gone already, or it does not answer
                    await self._connection.close(timeout=CLOSE_TIMEOUT)
                self._connection = None


class SharedFlush[Item, Result]:
    """Collects items while a flush is under way, and flushes them together when it is done.

    `flush` gets the items and returns, in their order, a result for each, or an exception for the
    one that it concerns. An item that spoils the whole statement is isolated: each is tried alone.
    """

    def __init__(
        self, flush: Callable[[list[Item]], Awaitable[Sequence[Result | Exception]]]
    ) -> None:
        self._flush = flush
        self._waiting: deque[tuple[Item, Callable[[Result | Exception], None]]] = deque()
        self._flushing: asyncio.Task[None] | None = None

    def submit(self, item: Item) -> "asyncio.Future[Result]":
        """Queue an item and return the future of its result, which is set after the commit."""
        future = asyncio.get_running_loop().create_future()
        self.add(item, partial(_resolve, future))
        return future

    def add(self, item: Item, done: Callable[[Result | Exception], None]) -> None:
        """Queue an item, and call `done` with its result after the commit: it must not fail."""
        self._waiting.append((item, done))
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._flush_all())

    async def close(self) -> None:
        """Wait until everything that was submitted is settled."""
        while self._flushing is not None and not self._flushing.done():
            await asyncio.wait([self._flushing])

    async def _flush_all(self) -> None:
        try:
            while self._waiting:
                count = min(FLUSH_MOST, len(self._waiting))
                await self._flush_some([self._waiting.popleft() for _ in range(count)])
                # Who got a result just now may have more to send: let that share the next commit.
                await asyncio.sleep(0)
        finally:  # cancelled by other code: no other task would give these a result
            waiting, self._waiting = self._waiting, deque()
            _report(waiting, [_interrupted()] * len(waiting))

    async def _flush_some(
        self, batch: list[tuple[Item, Callable[[Result | Exception], None]]]
    ) -> None:
        try:
            results = await self._flush([item for item, _ in batch])
        except Exception as error:
            away = isinstance(error, DATABASE_AWAY) and not isinstance(error, ValueError)
            if len(batch) > 1 and not away:  # a ValueError: asyncpg cannot encode one of them
                for each in batch:
                    await self._flush_some([each])
                return
            results = [error] * len(batch)
        except BaseException:
            _report(batch, [_interrupted()] * len(batch))
            raise
        _report(batch, results)


def _interrupted() -> Exception:
    """Return the error of a commit of which nobody knows whether it was made."""
    return asyncpg.InterfaceError("the commit was interrupted: repeat it, with the same ids")


def _report[Item, Result](
    batch: Iterable[tuple[Item, Callable[[Result | Exception], None]]],
    results: Sequence[Result | Exception],
) -> None:
    """Give each caller its result; one whose callback fails keeps none of the others from theirs."""
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
