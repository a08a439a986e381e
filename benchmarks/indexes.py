"""Build an index of the store beside a service that publishes, kill the build, and build it again.

    make render && .tools/bin/uv run --project build/my-agent python -m benchmarks.indexes

It takes minutes and some gigabytes for its 5,000,000 events; `--events` says how many.
"""

import argparse
import asyncio
import os
import statistics
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg

from my_agent.config import Settings
from my_agent.core.events import HTTPEvent
from my_agent.infra.database import open_database
from my_agent.infra.process.embedded import embedded_postgres
from my_agent.infra.store import EventStore
from my_agent.migrations import migrate
from my_agent.migrations.indexes import INDEXES

from .server import WRITE_HISTORY

PUBLISHERS = 4
PACE = 0.01  # seconds between the events of one publisher
BASELINE = 15  # seconds of publishing before anything is built
VALID = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1)"
BUILDER = "SELECT pid FROM pg_stat_progress_create_index WHERE blocks_done > 0"


class Load:
    """Publishes all the time, and notes how long each event took."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._taken: list[float] = []
        self.published = 0

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Publish for the block."""
        stop = asyncio.Event()
        tasks = [asyncio.create_task(self._publish(stop)) for _ in range(PUBLISHERS)]
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(*tasks)

    async def _publish(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            event = HTTPEvent(source="load", method="GET", path="/")
            begun = time.perf_counter()
            await self._store.publish(event)
            self._taken.append(time.perf_counter() - begun)
            self.published += 1
            await asyncio.sleep(PACE)

    def figures(self) -> str:
        """Say how long events took since this was asked last."""
        taken, self._taken = sorted(self._taken), []
        cuts = statistics.quantiles(taken, n=100)
        return (
            f"{len(taken):7} published, p50 {cuts[49] * 1000:6.1f} ms, p99 {cuts[98] * 1000:7.1f} ms,"
            f" max {taken[-1] * 1000:7.1f} ms"
        )


async def start_migrate(settings: Settings) -> Process:
    """Start `migrate` as one types it."""
    env = {**os.environ, "DATABASE_URL": str(settings.database_url)}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "my_agent", "migrate"), env=env, stdout=PIPE, stderr=PIPE
    )


async def kill_on_the_way(settings: Settings, connection: asyncpg.Connection) -> None:
    """End a build in its middle: the process, and its session in the server."""
    process = await start_migrate(settings)
    while (pid := await connection.fetchval(BUILDER)) is None:
        assert process.returncode is None, "it was over before it could be killed"
        await asyncio.sleep(0.01)
    process.kill()
    await connection.execute("SELECT pg_terminate_backend($1)", pid)
    await process.wait()


async def try_it(settings: Settings, events: int) -> None:
    """Fill a log, build under load, and say what that took."""
    [index] = INDEXES
    await migrate(settings)
    connection = await asyncpg.connect(settings.dsn)
    await connection.execute(f"DROP INDEX {index.name}")
    await connection.execute(WRITE_HISTORY.replace("$1", str(events)))
    await connection.execute("VACUUM ANALYZE events")
    size = await connection.fetchval("SELECT pg_size_pretty(pg_total_relation_size('events'))")
    print(f"{events} events, {size}", flush=True)

    async with open_database(settings) as database:
        store = EventStore(database.sessions, database.pool, settings=settings)
        load = Load(store)
        async with load.running():
            await asyncio.sleep(BASELINE)
            print(f"before        {load.figures()}", flush=True)
            await kill_on_the_way(settings, connection)
            assert await connection.fetchval(VALID, index.name) is False
            print(f"killed        {load.figures()}", flush=True)
            begun = time.perf_counter()
            again = await start_migrate(settings)
            _, said = await again.communicate()
            print(f"built again   {load.figures()}", flush=True)
            print(f"`migrate` took {time.perf_counter() - begun:.1f} s and said:\n{said.decode()}")
        assert again.returncode == 0
        assert await connection.fetchval(VALID, index.name) is True
        assert await connection.fetchval("SELECT count(*) FROM events") == events + load.published
        await store.close()
    await connection.close()


def main() -> None:
    """Run it on a server of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=5_000_000)
    with TemporaryDirectory(dir="build") as folder, embedded_postgres(Path(folder)) as url:
        asyncio.run(try_it(Settings(database_url=url), parser.parse_args().events))


if __name__ == "__main__":
    main()
