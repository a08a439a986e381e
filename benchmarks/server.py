"""The server that everybody is measured on, and a fresh database for each measurement."""

import asyncio
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg

from .gate import READY, Outcome
from .works import Entry

ROOT = Path(__file__).parent.parent
HISTORY = 1_000_000

# A million events that were handled long ago, as the store would have written them.
WRITE_HISTORY = """
INSERT INTO events (id, type, source, scope, timestamp, payload, headers, recorded_at)
SELECT gen_random_uuid()::text, 'error.reported', 'bench', 'main', t, p, h, t
  FROM generate_series(1, $1::int) AS n,
       LATERAL (SELECT now() - (interval '30 days' * n / $1::int) AS t) AS times,
       (SELECT '{"service": "billing", "message": "connection refused"}'::jsonb AS p,
               '{"trace_id": "0192e4a0-7b1c-7000-8000-000000000000", "depth": 0}'::jsonb AS h) AS rest
"""


WRITTEN = """
SELECT sum(n_tup_ins)::int AS inserted, sum(n_tup_upd)::int AS updated, sum(n_tup_del)::int AS deleted
  FROM pg_stat_user_tables WHERE relname IN ('events', 'deliveries', 'scopes')
"""


class Server:
    """One PostgreSQL, with a template database for every contender."""

    def __init__(self, url: str) -> None:
        self._url = url.replace("+asyncpg", "")  # the name of SQLAlchemy's driver
        self._made = 0

    async def prepare(self, contenders: Sequence[str]) -> None:
        """Install every contender's schema once, and ours a second time with a history."""
        for contender in contenders:
            await self._create(f"{contender}_template", "template1")
            url = self._database(f"{contender}_template")
            await run([(contender, "install", url, 0)])
        await self._create("reflex_history", "reflex_template")
        connection = await asyncpg.connect(self._database("reflex_history"))
        await connection.execute(WRITE_HISTORY.replace("$1", str(HISTORY)))
        await connection.execute("VACUUM ANALYZE")
        await connection.close()

    @asynccontextmanager
    async def fresh(self, contender: str, history: bool = False) -> AsyncGenerator[str]:
        """Give the URL of a database with a contender's schema, for the block."""
        self._made += 1
        name = f"measured_{self._made}"
        template = "reflex_history" if history else f"{contender}_template"
        await self._create(name, template)
        try:
            yield self._database(name)
        finally:
            await self._sql(f"DROP DATABASE {name} WITH (FORCE)")

    async def measure(self, entry: Entry) -> list[Outcome]:
        """Let a contender do a work once, on a database of its own."""
        async with self.fresh(entry.contender, entry.history) as url:
            if entry.backlog:
                await run([(entry.contender, "fill", url, entry.backlog)])
            await self._sql("CHECKPOINT")  # so that nobody pays for what others wrote
            return await run(
                [(entry.contender, work, url, entry.count) for work in entry.processes]
            )

    async def owe_everything(self, url: str) -> None:
        """Make the whole log a backlog."""
        connection = await asyncpg.connect(url)
        await connection.execute(
            "INSERT INTO deliveries (subscriber, seq, scope) SELECT 'agent', seq, scope FROM events"
        )
        await connection.close()

    async def written(self, url: str) -> tuple[int, int, int]:
        """Return how many rows were inserted, updated and deleted in a database."""
        connection = await asyncpg.connect(url)
        row = await connection.fetchrow(WRITTEN)
        await connection.close()
        assert row
        return row["inserted"], row["updated"], row["deleted"]

    async def version(self) -> str:
        """Return the server's version."""
        connection = await asyncpg.connect(self._url)
        try:
            return connection.get_settings().server_version
        finally:
            await connection.close()

    def _database(self, name: str) -> str:
        return self._url.rsplit("/", 1)[0] + "/" + name

    async def _create(self, name: str, template: str) -> None:
        await self._sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")  # of a run that was ended
        await self._sql(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")

    async def _sql(self, statement: str) -> None:
        connection = await asyncpg.connect(self._url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


async def run(processes: Sequence[tuple[str, str, str, int]]) -> list[Outcome]:
    """Start a process for each (contender, work, url, count), let them go together, and collect."""
    with TemporaryDirectory() as folder:
        paths = [Path(folder) / str(place) for place in range(len(processes))]
        arguments = [
            [*map(str, process), path] for process, path in zip(processes, paths, strict=True)
        ]
        started = [await _start(*each) for each in arguments]
        for process in started:
            if not await _ready(process):
                raise SystemExit(f"A measurement ended before it was ready: {processes}")
        for process in started:
            assert process.stdin
            process.stdin.write(b"go\n")
        for process in started:
            if await process.wait():
                raise SystemExit(f"A measurement failed: {processes}")
        return [Outcome.read(path) for path in paths]


async def _start(*arguments: str | Path) -> Process:
    return await asyncio.create_subprocess_exec(
        *[sys.executable, "-W", "ignore", "-m", "benchmarks.measure", *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


async def _ready(process: Process) -> bool:
    assert process.stdout
    while line := (await process.stdout.readline()).decode().strip():
        if line == READY:
            return True
    return False
