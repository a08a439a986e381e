"""Row: the CPU time of a decision, as the service is shipped, beside that of its model's run alone.

A decision is a POST, its event's way through the queue, the trigger with the offline model, and the
action. The run alone is the same agent with the same model, tools and instrumentation. Both alternate in
one process, so that neighbours on the machine slow both down alike; the client is another process.
"""

import asyncio
import socket
import statistics
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from .gate import Outcome, gate
from .rows import Place, Row

if TYPE_CHECKING:
    from my_agent.runtime import Service

TITLE = "CPU of a decision, POST included, beside its model's run alone"
ROWS = (Row(TITLE, "x", target=1.5),)

DECISIONS = 300
WARM_UP = 30  # decisions before anything is measured
SETTLE = 0.01  # seconds after an action in which the service tells others of it
PROMPT = "1 errors within 60 s in scope main"


async def measure(place: Place) -> dict[str, float]:
    """Alternate decisions and runs alone in a process as shipped."""
    async with place.fresh() as url:
        outcome = await place.run("decision", "alternate", url, place.count(DECISIONS))
    decision, alone = outcome.figures["decision"], outcome.figures["alone"]
    print(f"a decision {decision:.1f} ms of CPU, its run alone {alone:.1f} ms", file=sys.stderr)
    return {TITLE: decision / alone}


async def alternate(url: str, count: int) -> Outcome:
    """Return the mean CPU time, in milliseconds, of decisions and of their model's runs alone."""
    from my_agent.agent.agents import alert_agent
    from my_agent.infra.model.offline import OfflineModel

    acted = note_actions()
    async with served(url) as (service, port), client(port) as post:
        deps, model = service.deps.within("main", "alone"), OfflineModel()

        async def decide() -> None:
            acted.clear()
            await post()
            await acted.wait()
            await asyncio.sleep(SETTLE)

        async def run_alone() -> None:
            await alert_agent.run(PROMPT, deps=deps, model=model)
            await asyncio.sleep(SETTLE)

        for _ in range(WARM_UP):
            await decide()
            await run_alone()
        start = await gate()
        pairs = [(await cpu_of(decide), await cpu_of(run_alone)) for _ in range(count)]
    decision, alone = (statistics.mean(each) for each in zip(*pairs, strict=True))
    figures = {"decision": decision, "alone": alone}
    return Outcome(start, time.monotonic(), count, figures=figures)


def note_actions() -> asyncio.Event:
    """Let each event be a decision that acts; return what is set when its action is committed."""
    from my_agent import agent
    from my_agent.agent.triggers import error_threshold_trigger
    from my_agent.infra.memory import Memory

    acted, act = asyncio.Event(), Memory.act

    async def on_each_error(ctx: Any, deps: Any) -> object | None:
        return await error_threshold_trigger(ctx, deps, threshold=1)

    async def act_and_note(*args: Any, **options: Any) -> Any:
        action = await act(*args, **options)
        acted.set()
        return action

    agent.trigger = on_each_error
    Memory.act = act_and_note
    return acted


@asynccontextmanager
async def served(url: str) -> "AsyncGenerator[tuple[Service, int]]":
    """Serve the application as `serve` does, and give its service and its port."""
    import uvicorn

    from my_agent.api.app import create_app  # configures telemetry
    from my_agent.config import Settings

    app = create_app(Settings(database_url=url))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:
            await asyncio.sleep(0.05)
        yield app.state.service, listening.getsockname()[1]
        server.should_exit = True
        await serving


@asynccontextmanager
async def client(port: int) -> AsyncGenerator[Callable[[], Awaitable[None]]]:
    """Start a client, and give a function that lets it post an event and returns at the answer."""
    arguments = [sys.executable, "-m", "benchmarks.client", str(port)]
    process = await asyncio.create_subprocess_exec(*arguments, stdin=PIPE, stdout=PIPE)

    async def post() -> None:
        await _ask(process)

    try:
        yield post
    finally:
        process.terminate()
        await process.wait()


async def _ask(process: Process) -> None:
    assert process.stdin and process.stdout
    process.stdin.write(b"\n")
    if not await process.stdout.readline():
        raise SystemExit("The client of the service ended")


async def cpu_of(work: Callable[[], Awaitable[object]]) -> float:
    """Return the CPU time of this process, in milliseconds, while it works."""
    begun = time.process_time()
    await work()
    return 1_000 * (time.process_time() - begun)
