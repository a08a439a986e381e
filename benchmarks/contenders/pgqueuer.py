"""PgQueuer on its asyncpg driver, as its documentation shows it; the payload is raw bytes."""

import asyncio
import os
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from uuid import uuid4

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.core.logconfig import LogLevel, setup_fancy_logger
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries
from pgqueuer.types import QueueExecutionMode
from pydantic_core import to_json

from ..gate import Outcome, Progress, gate
from . import PAYLOAD, SPEAK_EVERY

RAW = to_json(PAYLOAD)
BATCH = 100  # jobs a dequeue: of 10, 100 and 1,000 the fastest here

setup_fancy_logger(LogLevel[os.environ.get("LOG_LEVEL", "INFO")])  # as `pgq run` does


@asynccontextmanager
async def opened(url: str) -> AsyncGenerator[Queries]:
    """Open one connection to enqueue on."""
    connection = await asyncpg.connect(url)
    try:
        yield Queries(AsyncpgDriver(connection))
    finally:
        await connection.close()


async def install(url: str, _: int) -> Outcome:
    """Create the schema."""
    async with opened(url) as queries:
        start = await gate()
        await queries.install()
    return Outcome(start, time.monotonic(), 0)


async def publish_one_by_one(url: str, count: int) -> Outcome:
    """Enqueue, each commit awaited before the next job."""
    async with opened(url) as queries:
        await queries.enqueue("work", RAW)
        start = await gate()
        for _ in range(count):
            await queries.enqueue("work", RAW)
        return Outcome(start, time.monotonic(), count)


async def publish_concurrently(url: str, count: int) -> Outcome:
    """Enqueue from 16 tasks of one process, on a pool of as many connections."""
    async with asyncpg.create_pool(url, min_size=16, max_size=16) as pool:
        queries = Queries(AsyncpgPoolDriver(pool))

        async def produce() -> None:
            for _ in range(count // 16):
                await queries.enqueue("work", RAW)

        start = await gate()
        await asyncio.gather(*(produce() for _ in range(16)))
        return Outcome(start, time.monotonic(), count // 16 * 16)


async def publish_in_bulk(url: str, count: int) -> Outcome:
    """Enqueue all in one call."""
    async with opened(url) as queries:
        await queries.enqueue("work", RAW)
        start = await gate()
        await queries.enqueue(["work"] * count, [RAW] * count, [0] * count)
        return Outcome(start, time.monotonic(), count)


async def fill(url: str, count: int) -> Outcome:
    """Leave a backlog for others to drain."""
    return await publish_in_bulk(url, count - 1)  # it publishes one to get warm


async def drain_by_tasks(url: str, count: int) -> Outcome:
    """Run a worker until the queue is empty; it runs a task for each job."""
    connection = await asyncpg.connect(url)
    worker = PgQueuer(AsyncpgDriver(connection))
    progress = Progress(count)

    @worker.entrypoint("work")
    async def work(_: Job) -> None:  # pyright: ignore[reportUnusedFunction] - the decorator registers it
        progress.begin()
        progress.finish()

    await gate()
    await worker.qm.run(mode=QueueExecutionMode.drain, batch_size=BATCH)
    progress.end = time.monotonic()  # what it did is committed by now
    return progress.outcome()


async def listen(url: str, count: int) -> Outcome:
    """Handle what another process enqueues, and note when."""
    start = await gate()
    seen = await listen_here(url, count)
    return Outcome(start, time.monotonic(), len(seen), seen)


async def speak(url: str, count: int) -> Outcome:
    """Enqueue fifty jobs a second, and note when each was begun."""
    async with opened(url) as queries:
        start = await gate()
        sent = await speak_here(queries, count)
        return Outcome(start, time.monotonic(), count, sent)


async def speak_and_listen(url: str, count: int) -> Outcome:
    """Enqueue fifty jobs a second and handle them in the same process."""
    listening = asyncio.create_task(listen_here(url, count))
    async with opened(url) as queries:
        start = await gate()
        sent = await speak_here(queries, count)
        handled = await listening
        delays = {name: handled[name] - sent[name] for name in sent}
        return Outcome(start, time.monotonic(), count, delays)


async def speak_here(queries: Queries, count: int) -> dict[str, float]:
    """Enqueue fifty jobs a second and return when each was begun."""
    sent: dict[str, float] = {}
    for name in (str(uuid4()) for _ in range(count)):
        await asyncio.sleep(SPEAK_EVERY)
        sent[name] = time.monotonic()
        await queries.enqueue("work", name.encode().ljust(len(RAW)))
    return sent


async def listen_here(url: str, count: int) -> dict[str, float]:
    """Handle jobs in this process and return when each was."""
    connection = await asyncpg.connect(url)
    worker = PgQueuer(AsyncpgDriver(connection))
    seen: dict[str, float] = {}

    @worker.entrypoint("work")
    async def work(job: Job) -> None:  # pyright: ignore[reportUnusedFunction] - the decorator registers it
        seen[(job.payload or b"").decode().rstrip()] = time.monotonic()
        if len(seen) == count:
            worker.qm.shutdown.set()

    await worker.qm.run()
    return seen
