"""Rows: what a decision costs that calls no model and no tool. With `--base`, these show what the journal adds to it.

The reference loop drains a backlog whose events have a scope each, and its trigger acts on each of them.
"""

import asyncio
import time
from typing import TYPE_CHECKING, Any

from .gate import Outcome, Progress, gate
from .rows import Place, Row

if TYPE_CHECKING:
    from my_agent.core.context import DecisionContext
    from my_agent.core.deps import ReflexDeps
    from my_agent.core.events import Event

CPU = "a decision without a model: CPU"
TIME = "a decision without a model: time, in a backlog"
ROWS = (Row(CPU, "ms"), Row(TIME, "ms"))

DECISIONS = 3_000
WARM_UP = 200  # decisions before anything is measured


async def measure(place: Place) -> dict[str, float]:
    """Drain once, in a process as shipped."""
    async with place.fresh() as url:
        outcome = await place.run("acts", "act_on_each", url, place.count(DECISIONS))
    return outcome.figures


async def act_on_each(url: str, count: int) -> Outcome:
    """Return the mean time and CPU time of a decision, in milliseconds."""
    import httpx2

    from my_agent.agent.loop import run_agent_loop
    from my_agent.core.deps import ReflexDeps
    from my_agent.infra.locks import open_locks
    from my_agent.infra.memory import Memory
    from my_agent.infra.model.offline import OfflineModel

    from .contenders.reflex import events, opened

    act, progress, over, cpu = Memory.act, Progress(count), asyncio.Event(), list[float]()
    left = WARM_UP

    async def counted(*args: Any, **options: Any) -> Any:
        nonlocal left
        action = await act(*args, **options)
        left -= 1
        if left == 0:
            progress.begin()
            cpu.append(time.process_time())
        elif left < 0 and progress.finish():
            cpu.append(time.process_time())
            over.set()
        return action

    def everything(event: "Event", ctx: "DecisionContext") -> bool:
        return True

    async def trigger(ctx: "DecisionContext", deps: "ReflexDeps") -> str:
        return "acted"

    Memory.act = counted
    async with (
        opened(url) as store,
        httpx2.AsyncClient() as http,
        open_locks(store.settings) as locks,
    ):
        await store.publish_many(events(WARM_UP + count, scopes=WARM_UP + count))
        deps = ReflexDeps(store, http, store.sessions, OfflineModel(), store.settings)
        await gate()
        loop = asyncio.create_task(run_agent_loop(store, deps, everything, trigger, locks))
        loop.add_done_callback(
            lambda _: over.set()
        )  # one that fails ends the wait, and is raised below
        await over.wait()
        store.drain()
        await loop
    each = 1_000 / count
    figures = {CPU: each * (cpu[1] - cpu[0]), TIME: each * (progress.end - progress.start)}
    return Outcome(progress.start, progress.end, count, figures=figures)
