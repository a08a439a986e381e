"""One run from the first process to the account."""

import asyncio
import itertools
import json
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import httpx2

from . import ledger
from .events import Sent, events, make, scopes
from .faults import Faults
from .ledger import Check
from .plan import PROCESSES, plan
from .processes import STOP_LIMIT, Process, free_port
from .project import HOME, KEY, LOGS, PYTHON, bare_environment, environment
from .provider import providing
from .proxy import proxying
from .publisher import Publisher
from .server import DATABASE, PASSWORD, ROLE, Server, serving
from .watch import Watch, growth

START_LIMIT = 90.0  # seconds until all processes are there
ANSWER_LIMIT = 120.0  # seconds for what was sent under faults, once they are over
DRAIN_LIMIT = 300.0
"""Seconds for the queue to drain: a request that the provider left hanging takes MODEL_TIMEOUT, three times."""
PROBE_LIMIT = 60.0  # seconds that an event of any scope may wait, once the queue is empty
PAGE_LIMIT = 60.0  # seconds
STATS_ATTEMPTS = 10
MORE_MEMORY = 0.2  # by how much of its second quarter a process may have grown in its last
SETTLED = """
SELECT count(*) = 0 FROM deliveries d JOIN events e ON e.seq = d.seq
 WHERE d.subscriber = 'agent' AND e.id = ANY ($1)
"""


class Run:
    """One run, and what it needs."""

    def __init__(
        self, seconds: float, seed: int, loop: str, locks: str, kinds: dict[str, int]
    ) -> None:
        self.seconds = seconds
        self.seed = seed
        self.loop = loop
        self.kinds = kinds
        # Locks in memory are for one worker.
        self.names = PROCESSES[:2] if locks == "memory" else PROCESSES
        self.began = time.monotonic()

    def clock(self) -> float:
        """Return the seconds since the first event was published."""
        return time.monotonic() - self.began

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
            client = await stack.enter_async_context(
                httpx2.AsyncClient(
                    base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {KEY}"}
                )
            )
            processes = self._processes(env, port)
            faults = Faults(server, proxy, provider, processes, self.clock)
            watch = Watch(server, client, processes, HOME, self.clock)
            async with supervising(processes):
                await until_started(watch, client, self.names)
                return await self._account(server, client, faults, watch)

    def _processes(self, env: Mapping[str, str], port: int) -> dict[str, Process]:
        package = [str(PYTHON), "-m", "my_agent"]
        commands = {"api": [*package, "serve", "--no-worker", "--port", str(port)]}
        for name in self.names[1:]:
            beat = HOME / f"{name}.beat"
            beat.unlink(missing_ok=True)
            commands[name] = [*package, "worker", "--heartbeat", str(beat)]
        return {
            name: Process(name, words, env, LOGS / f"{name}.log", self.clock)
            for name, words in commands.items()
        }

    async def _account(
        self, server: Server, client: httpx2.AsyncClient, faults: Faults, watch: Watch
    ) -> list[Check]:
        """Publish under faults, let everything settle, and compare."""
        publisher = Publisher(client, self.seed)
        self.began = time.monotonic()
        watching = asyncio.create_task(watch.run(publisher.answers, faults))
        publishing = asyncio.create_task(
            publisher.run(events(self.seed, self.kinds), lambda: self.clock() < self.seconds)
        )
        await faults.follow(plan(self.seed, self.seconds))
        await asyncio.sleep(max(0.0, self.seconds - self.clock()))
        await server.free_slots()
        print(f"All faults are over after {self.clock():.0f} s; the queue drains.", flush=True)
        with suppress(TimeoutError):
            await asyncio.wait_for(publishing, ANSWER_LIMIT)
        settled = [await drained(watch), await self._probed(server, publisher)]
        watching.cancel()
        last = [await self._tasks(watch), await pages(client, server), await stats(faults)]
        stops = await stopped(faults.processes)
        connection = await server.connect()
        found = await ledger.read(connection)
        await connection.close()
        made = ", ".join(f"{count} x {kind}" for kind, count in sorted(faults.made.items()))
        print(f"Faults: {made}; {faults.skipped} were not possible at their time.")
        self._print_exits(faults, publisher)
        return [
            *ledger.checks(found, publisher.answers, self.loop == "batch"),
            *settled,
            *last,
            stops,
            *self._memory(watch),
        ]

    async def _probed(self, server: Server, publisher: Publisher) -> Check:
        """Publish an event to each scope, and see that none of them waits."""
        probes = [make("act", n, scope, "probe") for n, scope in enumerate(scopes())]
        began = time.monotonic()
        left: list[Sent] = probes
        with suppress(TimeoutError):
            async with asyncio.timeout(PROBE_LIMIT):
                await asyncio.gather(*(publisher.deliver([probe]) for probe in probes))
                connection = await server.connect()
                while not await connection.fetchval(SETTLED, [probe.id for probe in probes]):
                    await asyncio.sleep(0.2)
                await connection.close()
                left = []
        took = f"all {len(probes)} within {time.monotonic() - began:.1f} s"
        return Check(
            f"no scope is stuck: a probe of each is handled within {PROBE_LIMIT:g} s",
            took if not left else f"some of {len(probes)} wait longer",
            not left,
        )

    async def _tasks(self, watch: Watch) -> Check:
        """See that every task of every process runs."""
        states = {name: await watch.tasks_of(name) for name in self.names}
        amiss = [
            f"{task} of {name} is {state}"
            for name, tasks in states.items()
            for task, state in tasks.items()
            if state != "running"
        ]
        amiss += [f"{name} reports nothing" for name in self.names[1:] if not states[name]]
        amiss += watch.stopped
        count = sum(map(len, states.values()))
        return Check(
            "no task ends silently",
            f"{count} tasks, {len(amiss)} ended" if amiss else f"all {count} run",
            not amiss,
            amiss,
        )

    def _memory(self, watch: Watch) -> list[Check]:
        """Compare each process's memory early and late in the run."""
        checks: list[Check] = []
        for name in self.names:
            medians = growth(watch.memory[name], self.seconds)
            promise = f"{name} has at most {MORE_MEMORY:.0%} more memory at the end"
            if medians is None:
                checks.append(Check(promise, "not compared: too few samples", True))
            else:
                early, late = medians
                kept = late <= early * (1 + MORE_MEMORY)
                checks.append(Check(promise, f"{early:.0f} MB, then {late:.0f} MB", kept))
        return checks

    def _print_exits(self, faults: Faults, publisher: Publisher) -> None:
        for name, process in faults.processes.items():
            by_itself = [exit.code for exit in process.exits if not exit.asked]
            asked = len(process.exits) - len(by_itself)
            codes = f" (exit codes {', '.join(map(str, by_itself))})" if by_itself else ""
            print(f"{name}: ended by faults {asked} times, by itself {len(by_itself)} times{codes}")
        answers = publisher.answers
        print(
            f"client: {answers.attempts:,} requests, {answers.errors} answers 500,"
            f" {len(answers.refused)} events refused; model: {faults.provider.asked} requests,"
            f" {faults.provider.refused} refused"
        )


@asynccontextmanager
async def supervising(processes: Mapping[str, Process]) -> AsyncGenerator[None]:
    """Run the processes for the block, and leave none behind."""
    tasks = [asyncio.create_task(process.run()) for process in processes.values()]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for process in processes.values():
            process.kill()


async def command(env: Mapping[str, str], *args: str) -> str:
    """Run a command of the service and return what it prints."""
    process = await asyncio.create_subprocess_exec(
        *(PYTHON, "-m", "my_agent", *args),
        env=env,
        cwd=HOME,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, errors = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{' '.join(args)} failed: {errors.decode()[-2000:]}")
    return said.decode()


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


async def drained(watch: Watch) -> Check:
    """Wait until nothing is pending or in flight."""
    began = time.monotonic()
    while time.monotonic() - began < DRAIN_LIMIT:
        queue = await watch.queue()
        if queue and queue.depth == queue.in_flight == 0:
            break
        await asyncio.sleep(0.5)
    else:
        queue = await watch.queue()
    return Check(
        f"the queue drains within {DRAIN_LIMIT:g} s",
        f"{queue.depth} pending, {queue.in_flight} in flight after {time.monotonic() - began:.0f} s"
        if queue
        else "the database does not answer",
        bool(queue and queue.depth == queue.in_flight == 0),
    )


async def pages(client: httpx2.AsyncClient, server: Server) -> Check:
    """Read the whole log through the API, page by page."""
    connection = await server.connect()
    stored = await connection.fetchval("SELECT count(*) FROM events")
    await connection.close()
    promise, read = "every stored event can be listed", 0
    before: dict[str, str] = {}
    for number in itertools.count(1):
        try:
            answer = await client.get(
                "/events", params={"limit": "1000"} | before, timeout=PAGE_LIMIT
            )
        except httpx2.TransportError as error:
            return Check(promise, f"page {number} got no answer: {error!r}", False)
        if not answer.is_success:
            said = f"page {number} got {answer.status_code}: {answer.text[:100]}"
            return Check(promise, said, False)
        page = answer.json()
        read += len(page["events"])
        if page["before"] is None:
            break
        before = {"before": str(page["before"])}
    # Another event may be recorded while this reads: a timer's tick for example.
    return Check(promise, f"{read:,} of {stored:,}", read >= stored)


async def stats(faults: Faults) -> Check:
    """Ask the command line what is pending; a timer's tick may be, for a moment."""
    promise = "`stats` shows an empty queue"
    shown = ""
    for _ in range(STATS_ATTEMPTS):
        try:
            said = json.loads(await command(faults.processes["api"].env, "stats", "--json"))
        except (RuntimeError, ValueError) as error:
            return Check(promise, str(error)[-200:], False)
        [agent] = [row for row in said if row["subscriber"] == "agent"]
        shown = ", ".join(f"{name} {agent[name]}" for name in agent if name != "subscriber")
        if agent["depth"] == agent["in_flight"] == 0:
            return Check(promise, shown, True)
        await asyncio.sleep(1)
    return Check(promise, shown, False)


async def stopped(processes: Mapping[str, Process]) -> Check:
    """Ask all processes to end, and see that each does, now and whenever a fault asked for it."""
    await asyncio.gather(*(process.stop() for process in processes.values()))
    late = [each for process in processes.values() for each in process.late_stops]
    codes = {name: process.exits[-1].code for name, process in processes.items() if process.exits}
    bad = [f"{name} ended with {code}" for name, code in codes.items() if code != 0]
    return Check(
        f"SIGTERM ends a process within {STOP_LIMIT:g} s, the last one with exit code 0",
        f"{len(late)} took longer; exit codes {', '.join(map(str, codes.values()))}",
        not late and not bad,
        late + bad,
    )
