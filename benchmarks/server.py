"""The server that everybody is measured on, and a fresh database for each measurement."""

import asyncio
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

import asyncpg

from .conditions import SHIPPED, Conditions, Side, environment
from .gate import IMPORTED, READY, Outcome
from .pipes import Pipes
from .works import Entry

ROOT = Path(__file__).parent.parent
OURS = "reflex"
GATES = 2  # where a process waits for the others
LONGEST = 900  # seconds that one measurement may take
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


class MeasurementFailed(Exception):
    """A measured process failed; the message ends with what it wrote last."""


class Server:
    """One PostgreSQL, with a template database for every contender, and for each code of ours."""

    def __init__(self, url: str, scale: float = 1.0) -> None:
        self._url = url.replace("+asyncpg", "")  # the name of SQLAlchemy's driver
        self._made = 0
        self._prepared: set[str] = set()
        self.root = ROOT
        self.history = round(HISTORY * scale)
        """How many events the log of a database with a history has."""

    async def prepare(self, contenders: Sequence[str], sides: Sequence[Side]) -> None:
        """Install every contender's schema once, and ours for each side and again with a history."""
        for contender in contenders:
            for side in sides if contender == OURS else sides[:1]:
                name = f"{_owner(contender, side)}_template"
                await self._create(name, "template1")
                work = (f"contenders.{contender}", "install", self._database(name), 0)
                await self.run([work], SHIPPED, side)
        for side in sides:
            await self._write_history(side)

    async def _write_history(self, side: Side) -> None:
        owner = _owner(OURS, side)
        await self._create(f"{owner}_history", f"{owner}_template")
        connection = await asyncpg.connect(self._database(f"{owner}_history"))
        await connection.execute(WRITE_HISTORY.replace("$1", str(self.history)))
        await connection.execute("VACUUM ANALYZE")
        await connection.close()

    @asynccontextmanager
    async def fresh(self, contender: str, side: Side, history: bool = False) -> AsyncGenerator[str]:
        """Give the URL of a database with a contender's schema, for the block."""
        self._made += 1
        name = f"measured_{self._made}"
        template = "history" if history else "template"
        await self._create(name, f"{_owner(contender, side)}_{template}")
        try:
            yield self._database(name)
        finally:
            await self._sql(f"DROP DATABASE {name} WITH (FORCE)")

    async def prepared(
        self, name: str, side: Side, fill: Callable[[str], Awaitable[object]]
    ) -> str:
        """Return the URL of a database with our schema that is filled once and kept."""
        owner = _owner(OURS, side)
        database = f"{owner}_{name}"
        if database not in self._prepared:
            await self._create(database, f"{owner}_template")
            await fill(self._database(database))
            self._prepared.add(database)
        return self._database(database)

    async def measure(self, entry: Entry, conditions: Conditions, side: Side) -> list[Outcome]:
        """Let a contender do a work once, on a database of its own."""
        module = f"contenders.{entry.contender}"
        async with self.fresh(entry.contender, side, entry.history) as url:

            async def fill() -> None:
                if entry.backlog:
                    await self.run([(module, entry.fill, url, entry.backlog)], conditions, side)
                await self._sql("CHECKPOINT")  # so that nobody pays for what others wrote

            works = [(module, work, url, entry.count) for work in entry.processes]
            return await self.run(works, conditions, side, fill)

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

    async def run(
        self,
        works: Sequence[tuple[str, str, str, int]],
        conditions: Conditions,
        side: Side,
        fill: Callable[[], Awaitable[object]] | None = None,
    ) -> list[Outcome]:
        """Start a process for each (module, work, url, count), let them go together, and collect.

        `fill` is awaited while they import what they need, before they look at the database.
        """
        variables = environment(conditions, side, self.root)
        started: list[tuple[Process, Pipes]] = []
        with TemporaryDirectory() as folder:
            paths = [Path(folder) / str(place) for place in range(len(works))]
            try:
                for work, path in zip(works, paths, strict=True):
                    arguments = ("-m", "benchmarks.measure", *map(str, work), str(path))
                    process = await self.start(arguments, variables)
                    started.append((process, Pipes(process)))
                async with asyncio.timeout(LONGEST):
                    if fill is not None:
                        await fill()
                    await _go_together(started)
            except MeasurementFailed as error:
                raise SystemExit(f"{works}: {error}") from None
            except TimeoutError:
                last_words = "\n".join(pipes.last_words() for _, pipes in started)
                raise SystemExit(f"{works} took longer than {LONGEST} s:\n{last_words}") from None
            finally:
                for process, _ in started:
                    if process.returncode is None:
                        process.kill()
            return [
                replace(Outcome.read(path), lines=pipes.lines - GATES)  # each wrote a line
                for path, (_, pipes) in zip(paths, started, strict=True)
            ]

    async def start(self, arguments: Sequence[str], variables: Mapping[str, str]) -> Process:
        """Start Python where no `.env` lies, with pipes that somebody has to read."""
        return await asyncio.create_subprocess_exec(
            *[sys.executable, *arguments],
            cwd=gettempdir(),
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

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


async def _go_together(started: Sequence[tuple[Process, Pipes]]) -> None:
    """Open the gates when all processes are there, and wait for their end."""
    for mark in (IMPORTED, READY):
        for _, pipes in started:
            if not await pipes.said(mark):
                raise MeasurementFailed(f"A process ended too early:\n{pipes.last_words()}")
        for process, _ in started:
            assert process.stdin
            process.stdin.write(b"go\n")
    await asyncio.gather(*(_end(process, pipes) for process, pipes in started))


async def _end(process: Process, pipes: Pipes) -> None:
    await pipes.close()
    if await process.wait():
        raise MeasurementFailed(f"A process failed:\n{pipes.last_words()}")


def _owner(contender: str, side: Side) -> str:
    """Return the first part of the names of a contender's databases."""
    return f"{contender}_{side.name}" if contender == OURS else contender
