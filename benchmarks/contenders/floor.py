"""What PostgreSQL and asyncpg give to anybody: hand-written statements, and nothing around them.

No ids that may be repeated, no types, no subscribers, no leases, no retries: not something to use,
but what the others can be measured against.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from uuid import uuid4

import asyncpg
from pydantic_core import to_json

from ..gate import Outcome, Progress, gate
from . import PAYLOAD, SPEAK_EVERY

RAW = to_json(PAYLOAD).decode()
BATCH = 1_000

SCHEMA = """
CREATE TABLE log (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, payload jsonb NOT NULL);
CREATE TABLE queue (id bigint PRIMARY KEY, due_at timestamptz NOT NULL DEFAULT now());
"""
PUBLISH = """
WITH logged AS (INSERT INTO log (payload) VALUES ($1::text::jsonb) RETURNING id)
INSERT INTO queue (id) SELECT id FROM logged
"""
PUBLISH_MANY = """
WITH logged AS (INSERT INTO log (payload) SELECT p::jsonb FROM unnest($1::text[]) AS p RETURNING id)
INSERT INTO queue (id) SELECT id FROM logged
"""
CLAIM = """
WITH picked AS (
    SELECT ctid FROM queue WHERE due_at <= now() ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE queue q SET due_at = now() + interval '1 minute'
     WHERE q.ctid = ANY (ARRAY (SELECT ctid FROM picked)) RETURNING q.id
)
SELECT l.id, l.payload FROM claimed c JOIN log l ON l.id = c.id
"""
ACK = "DELETE FROM queue WHERE id = ANY ($1::bigint[])"


@asynccontextmanager
async def opened(url: str) -> AsyncGenerator[asyncpg.Connection]:
    """Open one connection."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def install(url: str, _: int) -> Outcome:
    """Create the two tables."""
    async with opened(url) as connection:
        start = await gate()
        await connection.execute(SCHEMA)
    return Outcome(start, time.monotonic(), 0)


async def publish_one_by_one(url: str, count: int) -> Outcome:
    """Insert, each commit awaited before the next."""
    async with opened(url) as connection:
        await connection.execute(PUBLISH, RAW)
        start = await gate()
        for _ in range(count):
            await connection.execute(PUBLISH, RAW)
        return Outcome(start, time.monotonic(), count)


async def publish_concurrently(url: str, count: int) -> Outcome:
    """Insert what 16 tasks have ready, in one statement, again and again."""
    async with opened(url) as connection:
        await connection.execute(PUBLISH_MANY, [RAW])
        start = await gate()
        for _ in range(count // 16):
            await connection.execute(PUBLISH_MANY, [RAW] * 16)
        return Outcome(start, time.monotonic(), count // 16 * 16)


async def publish_in_bulk(url: str, count: int) -> Outcome:
    """Insert all in one statement."""
    async with opened(url) as connection:
        await connection.execute(PUBLISH_MANY, [RAW])
        start = await gate()
        await connection.execute(PUBLISH_MANY, [RAW] * count)
        return Outcome(start, time.monotonic(), count)


async def fill(url: str, count: int) -> Outcome:
    """Leave a backlog for others to drain."""
    return await publish_in_bulk(url, count - 1)  # it publishes one to get warm


async def drain_in_turn(url: str, count: int) -> Outcome:
    """Claim one, delete it, claim the next."""
    return await _drain(url, count, 1)


async def drain_by_batches(url: str, count: int) -> Outcome:
    """Claim a thousand, delete them, claim the next."""
    return await _drain(url, count, BATCH)


async def _drain(url: str, count: int, batch: int) -> Outcome:
    async with opened(url) as connection:
        progress = Progress(count)
        await gate()
        while rows := await connection.fetch(CLAIM, batch):
            progress.begin()
            await connection.execute(ACK, [row["id"] for row in rows])
            if progress.finish(len(rows)):
                break
        return progress.outcome()


async def speak_and_listen(url: str, count: int) -> Outcome:
    """Insert and notify in one transaction fifty times a second; claim whenever notified."""
    woken = asyncio.Event()
    sent: dict[str, float] = {}
    delays: dict[str, float] = {}
    async with opened(url) as producer, opened(url) as consumer, opened(url) as listener:

        def wake(*_: object) -> None:
            woken.set()

        await listener.add_listener("work", wake)
        start = await gate()

        async def listen() -> None:
            while len(delays) < count:
                await woken.wait()
                woken.clear()
                rows = await consumer.fetch(CLAIM, BATCH)
                for row in rows:
                    name = row["payload"].strip('"').rstrip()
                    delays[name] = time.monotonic() - sent[name]
                await consumer.execute(ACK, [row["id"] for row in rows])

        async with asyncio.TaskGroup() as group:
            group.create_task(listen())
            for name in (str(uuid4()) for _ in range(count)):
                await asyncio.sleep(SPEAK_EVERY)
                sent[name] = time.monotonic()
                async with producer.transaction():
                    await producer.execute(PUBLISH, f'"{name.ljust(len(RAW) - 2)}"')
                    await producer.execute("NOTIFY work")
        return Outcome(start, time.monotonic(), count, delays)
