"""One run from the first process to the account."""

import asyncio
import time
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import httpx2

from demo.ports import free_port

from . import ending, ledger
from .events import KINDS, events
from .faults import Faults
from .ledger import Check
from .plan import PROCESSES, plan
from .processes import Process, supervising
from .project import HOME, KEY, LOGS, PYTHON, bare_environment, command, environment
from .provider import providing
from .proxy import proxying
from .publisher import Answers, Publisher
from .server import DATABASE, PASSWORD, ROLE, serving
from .watch import Watch

START_LIMIT = 90.0  # seconds until all processes are there
ANSWER_LIMIT = 120.0  # seconds for what was sent under faults, once they are over


class Run:
    """One run: how long, with which plan, of which project, and what does not occur in it."""

    def __init__(
        self, seconds: float, seed: int, answers: dict[str, str], left_out: set[str]
    ) -> None:
        self._seconds = seconds
        self._seed = seed
        self._batches = answers["loop"] == "batch"
        self._left_out = left_out
        # Locks in memory are for one worker.
        self._names = PROCESSES[:2] if answers["locks"] == "memory" else PROCESSES
        self._began = time.monotonic()

    def clock(self) -> float:
        """Return the seconds since the first event was published."""
        return time.monotonic() - self._began

    async def whole(self) -> list[Check]:
        """Run everything and return the account."""
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(
                serving(PYTHON, HOME / "servers", bare_environment())
            )
            proxy = await stack.enter_async_context(proxying(server.port))
            provider = stack.enter_context(providing())
            url = f"postgresql+asyncpg://{ROLE}:{PASSWORD}@127.0.0.1:{proxy.port}/{DATABASE}"
            env = environment(url, server.redis_url, provider.url)
            await server.prepare()
            await command(env, "migrate")
            await server.create_effects()
            port = free_port()
            client = await stack.enter_async_context(client_of(port))
            processes = self._processes(env, port)
            faults = Faults(server, proxy, provider, processes, self.clock)
            watch = Watch(server, client, processes, HOME, self.clock)
            async with supervising(processes):
                await until_started(watch, client, self._names)
                publisher = Publisher(client, self._seed)
                self._began = time.monotonic()
                async with watching(watch.run(publisher.answers, faults)):
                    await self._under_faults(publisher, faults)
                    return await self._account(publisher, faults, watch, client)

    def _processes(self, env: Mapping[str, str], port: int) -> dict[str, Process]:
        package = [str(PYTHON), "-m", "my_agent"]
        commands = {"api": [*package, "serve", "--no-worker", "--port", str(port)]}
        for name in self._names[1:]:
            beat = HOME / f"{name}.beat"
            beat.unlink(missing_ok=True)
            commands[name] = [*package, "worker", "--heartbeat", str(beat)]
        return {
            name: Process(name, words, env, LOGS / f"{name}.log", self.clock)
            for name, words in commands.items()
        }

    async def _under_faults(self, publisher: Publisher, faults: Faults) -> None:
        """Publish while faults are made; return when they are over and every event is answered."""
        kinds = {kind: share for kind, share in KINDS.items() if kind not in self._left_out}
        publishing = asyncio.create_task(
            publisher.run(events(self._seed, kinds), lambda: self.clock() < self._seconds)
        )
        await faults.follow(plan(self._seed, self._seconds, self._left_out))
        await asyncio.sleep(max(0.0, self._seconds - self.clock()))
        await faults.server.free_slots()
        print(f"All faults are over after {self.clock():.0f} s; the queue drains.", flush=True)
        with suppress(TimeoutError):
            await asyncio.wait_for(publishing, ANSWER_LIMIT)

    async def _account(
        self, publisher: Publisher, faults: Faults, watch: Watch, client: httpx2.AsyncClient
    ) -> list[Check]:
        """Let everything settle, look at it, stop the processes, and compare."""
        server, processes = faults.server, faults.processes
        checks = [
            await ending.drained(watch),
            await ending.probed(server, publisher),
            await ending.all_tasks_run(watch, self._names),
            await ending.pages(client, server),
            await ending.stats(processes["api"].env),
            await ending.stopped(processes),
        ]
        checks += [ending.memory_is_flat(watch, name, self._seconds) for name in self._names]
        connection = await server.connect()
        found = await ledger.read(connection)
        await connection.close()
        print_story(faults, publisher.answers)
        return [*ledger.checks(found, publisher.answers, self._batches), *checks]


@asynccontextmanager
async def watching(watch: Coroutine[None, None, None]) -> AsyncGenerator[None]:
    """Watch for the block; a watch that failed fails the run."""
    task = asyncio.create_task(watch)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def client_of(port: int) -> httpx2.AsyncClient:
    """Return a client of the service."""
    headers = {"Authorization": f"Bearer {KEY}"}
    return httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers)


async def until_started(watch: Watch, client: httpx2.AsyncClient, names: tuple[str, ...]) -> None:
    """Wait until every process is ready."""
    async with asyncio.timeout(START_LIMIT):
        while not all(watch.heartbeat(name) for name in names[1:]):
            await asyncio.sleep(0.2)
        while True:
            with suppress(httpx2.TransportError):
                if (await client.get("/ready")).is_success:
                    return
            await asyncio.sleep(0.2)


def print_story(faults: Faults, answers: Answers) -> None:
    """Print what was done to the service, and how often its processes ended."""
    made = ", ".join(f"{count} x {kind}" for kind, count in sorted(faults.made.items()))
    print(f"\nFaults: {made}; {faults.skipped} were not possible at their time.")
    for name, process in faults.processes.items():
        by_itself = [exit.code for exit in process.exits if not exit.asked]
        asked = len(process.exits) - len(by_itself)
        codes = f" (exit codes {', '.join(map(str, by_itself))})" if by_itself else ""
        print(f"{name}: ended by faults {asked} times, by itself {len(by_itself)} times{codes}")
    print(
        f"Client: {answers.attempts:,} requests, {answers.errors} answers 500,"
        f" {len(answers.refused)} events refused. Model: {faults.provider.asked} requests,"
        f" {faults.provider.refused} refused."
    )
