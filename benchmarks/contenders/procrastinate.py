"""Procrastinate on its asynchronous psycopg connector, as its documentation shows it."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from procrastinate import App, PsycopgConnector
from procrastinate.types import JSONDict

from ..gate import Outcome, Progress, gate
from . import PAYLOAD


@asynccontextmanager
async def opened(url: str, handle: Callable[[], object] = bool) -> AsyncGenerator[App]:
    """Open an app with one task."""
    app = App(connector=PsycopgConnector(conninfo=url))

    @app.task(name="work")
    async def work(service: str, message: str) -> None:  # pyright: ignore[reportUnusedFunction] - the decorator registers it
        handle()

    async with app.open_async():
        yield app


async def install(url: str, _: int) -> Outcome:
    """Create the schema."""
    async with opened(url) as app:
        start = await gate()
        await app.schema_manager.apply_schema_async()
    return Outcome(start, time.monotonic(), 0)


async def publish_one_by_one(url: str, count: int) -> Outcome:
    """Defer, each commit awaited before the next job."""
    async with opened(url) as app:
        await app.configure_task("work").defer_async(**PAYLOAD)
        start = await gate()
        for _ in range(count):
            await app.configure_task("work").defer_async(**PAYLOAD)
        return Outcome(start, time.monotonic(), count)


async def publish_concurrently(url: str, count: int) -> Outcome:
    """Defer from 16 tasks of one process; the connector has a pool."""
    async with opened(url) as app:

        async def produce() -> None:
            for _ in range(count // 16):
                await app.configure_task("work").defer_async(**PAYLOAD)

        start = await gate()
        await asyncio.gather(*(produce() for _ in range(16)))
        return Outcome(start, time.monotonic(), count // 16 * 16)


async def publish_in_bulk(url: str, count: int) -> Outcome:
    """Defer all in one call."""
    async with opened(url) as app:
        await app.configure_task("work").defer_async(**PAYLOAD)
        start = await gate()
        jobs: list[JSONDict] = [{**PAYLOAD} for _ in range(count)]
        await app.configure_task("work").batch_defer_async(*jobs)
        return Outcome(start, time.monotonic(), count)


async def fill(url: str, count: int) -> Outcome:
    """Leave a backlog for others to drain."""
    return await publish_in_bulk(url, count - 1)  # it publishes one to get warm


async def drain_in_turn(url: str, count: int) -> Outcome:
    """Run a worker that takes one job at a time, until the queue is empty."""
    return await _drain(url, count, concurrency=1)


async def drain_by_tasks(url: str, count: int) -> Outcome:
    """Run a worker that takes twenty jobs at a time, until the queue is empty."""
    return await _drain(url, count, concurrency=20)


async def _drain(url: str, count: int, concurrency: int) -> Outcome:
    progress = Progress(count)

    def handle() -> None:
        progress.begin()
        progress.finish()

    async with opened(url, handle) as app:
        await gate()
        await app.run_worker_async(
            wait=False, concurrency=concurrency, install_signal_handlers=False
        )
        progress.end = time.monotonic()  # what it did is committed by now
        return progress.outcome()
