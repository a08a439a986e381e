"""Compare the CPU time of a decision, as the service is shipped, with that of its model's run alone.

    make render && .tools/bin/uv run --project build/my-agent python -m benchmarks.decision

A decision is a POST, its event's way through the queue, the trigger with the offline model, and the
action. The run alone is the same agent with the same model, tools and instrumentation. Both alternate in
one process, so that neighbours on the machine slow both down alike; the client is another process.
"""

import argparse
import asyncio
import json
import socket
import statistics
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2
import uvicorn
import uvloop

from my_agent import agent
from my_agent.agent.agents import alert_agent
from my_agent.agent.triggers import error_threshold_trigger
from my_agent.config import Settings
from my_agent.core.context import DecisionContext
from my_agent.core.deps import ReflexDeps
from my_agent.infra.embedded import embedded_postgres
from my_agent.infra.memory import Memory
from my_agent.infra.offline import OfflineModel
from my_agent.migrations import migrate
from my_agent.runtime import Service
from my_agent.serving import spare_collector

EVENT = {"type": "error.reported", "source": "bench", "service": "billing", "message": "an error"}
WARM_UP = 30  # decisions before anything is measured
SETTLE = 0.01  # seconds after an action in which the service tells others of it
WANTED = 1.5  # times the CPU of the run alone, at most


async def on_each_error(ctx: DecisionContext, deps: ReflexDeps) -> object | None:
    """The shipped trigger, with the least threshold: each event is a decision that acts."""
    return await error_threshold_trigger(ctx, deps, threshold=1)


class Acted:
    """Notes each action that a memory has committed."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        act = Memory.act

        async def act_and_note(*args: Any, **options: Any) -> Any:
            action = await act(*args, **options)
            self.event.set()
            return action

        Memory.act = act_and_note


@asynccontextmanager
async def served(settings: Settings) -> AsyncGenerator[tuple[Service, int]]:
    """Serve the application as `serve` does, and give its service and its port."""
    from my_agent.api.app import create_app  # configures telemetry, which the client goes without

    app = create_app(settings)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:
            await asyncio.sleep(0.05)
        spare_collector()
        yield app.state.service, listening.getsockname()[1]
        server.should_exit = True
        await serving


async def cpu_of(work: Callable[[], Awaitable[object]]) -> float:
    """Return the CPU time of this process, in milliseconds, while it works."""
    begun = time.process_time()
    await work()
    return 1_000 * (time.process_time() - begun)


async def measure(url: str, decisions: int) -> None:
    """Alternate decisions and runs alone, and print their CPU times."""
    agent.trigger = on_each_error
    acted = Acted()
    answers = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(answers), sys.stdin
    )
    async with served(Settings(database_url=url)) as (service, port):
        deps, model = service.deps.within("main", "alone"), OfflineModel()

        async def decide() -> None:
            acted.event.clear()
            print(port, flush=True)
            await answers.readline()
            await acted.event.wait()
            await asyncio.sleep(SETTLE)

        async def run_alone() -> None:
            await alert_agent.run("1 errors within 60 s in scope main", deps=deps, model=model)
            await asyncio.sleep(SETTLE)

        for _ in range(WARM_UP):
            await decide()
            await run_alone()
        pairs = [(await cpu_of(decide), await cpu_of(run_alone)) for _ in range(decisions)]
    print(json.dumps(pairs), flush=True)


async def drive(url: str, decisions: int) -> list[tuple[float, float]]:
    """Be the client of a measured process, and read what it logs, as a supervisor does."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "ignore", "-m", "benchmarks.decision"),
        *("--measure", url, "--decisions", str(decisions)),
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        limit=2**24,
    )
    assert process.stdin and process.stdout and process.stderr
    log = asyncio.create_task(process.stderr.read())
    async with httpx2.AsyncClient() as client:
        async for line in process.stdout:
            if line.startswith(b"["):
                await process.wait()
                return json.loads(line)
            response = await client.post(f"http://127.0.0.1:{int(line)}/events", json=EVENT)
            response.raise_for_status()
            process.stdin.write(b"\n")
    raise SystemExit(f"The measurement ended: {(await log).decode()[-2_000:]}")


async def compare(url: str, decisions: int) -> bool:
    """Print what a decision takes beside its model's run; tell whether that is little enough."""
    await migrate(Settings(database_url=url))
    pairs = await drive(url, decisions)
    ours, alone = (statistics.mean(each) for each in zip(*pairs, strict=True))
    ratio = ours / alone
    print(f"a decision, POST included   {ours:6.1f} ms of CPU, mean of {decisions}")
    print(f"its model's run alone       {alone:6.1f} ms")
    print(f"ratio                       {ratio:6.2f}, wanted: at most {WANTED:g}")
    return ratio <= WANTED


def main() -> None:
    """Run it on a server of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--decisions", type=int, default=300)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        uvloop.run(measure(given.measure, given.decisions))
        return
    with TemporaryDirectory(dir="build") as folder, embedded_postgres(Path(folder)) as url:
        sys.exit(0 if asyncio.run(compare(url, given.decisions)) else 1)


if __name__ == "__main__":
    main()
