"""Rows: what the journal adds to a model request, how records share commits, and how long a replay takes.

The model answers at once and in this process, so that a run's time is PydanticAI's own and the journal's. A run of ten
calls makes eleven model requests and ten tool calls, one after the other. It is timed in three ways: without a journal,
while its units are recorded, and while they are replayed. Each time includes that of opening the context.

Replayed work makes no spans, which hides a part of the journal's own time. So that part is measured without tracing.
"""

import asyncio
import statistics
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from .gate import Outcome, gate
from .rows import Place, Row

if TYPE_CHECKING:
    from pydantic_ai import Agent
    from pydantic_ai.messages import ModelMessage, ModelResponse

    from my_agent.core.context import DecisionContext
    from my_agent.core.deps import ReflexDeps
    from my_agent.core.events import Event
    from my_agent.infra.memory import Memory
    from my_agent.infra.store import Token

FIRST = "recording adds to a decision's first model request: p50"
UNIT = "recording adds to a request or tool call, mean of ten calls: p50"
SHARED = "1,000 decisions at once, the journal alone: records a commit"
RATE = "1,000 decisions at once, the journal alone: records"
RUNS_SHARED = "1,000 decisions at once, a run in each: records a commit"
REPLAY = "replay of a finished decision of ten calls: p50"
ALONE = "the same run without a journal: p50"
OURS = "the journal's part of that replay, both untraced: p50"
OURS_CPU = "the journal's part of that replay, both untraced: CPU"
ROWS = (
    Row(
        FIRST,
        "ms",
        2.0,
        reason="3.3 to 4.2 on slower cores: one commit, which also pins the decision",
    ),
    Row(
        UNIT,
        "ms",
        2.0,
        reason="2.3 to 3.9 on slower cores: 0.9 the statement, 0.5 the key, 0.2 reading back",
    ),
    Row(SHARED, "records", 10.0, at_least=True),
    Row(RATE, "a second"),
    Row(RUNS_SHARED, "records"),
    Row(
        REPLAY,
        "ms",
        20.0,
        reason="PydanticAI's own run takes as long without a journal: see the next rows",
    ),
    Row(ALONE, "ms"),
    Row(OURS, "ms", 20.0),
    Row(OURS_CPU, "ms"),
)

CALLS = 10
UNITS = 2 * CALLS + 1  # requests and tool calls of a run
PAIRS = 50  # runs of each kind
WARM_UP = 10  # runs of each kind before anything is measured
TOGETHER = 1_000  # decisions at once
RECORDS = 5  # of each of them
ENTRY = b"x" * 1_000  # of the journal alone
PROMPT = "3 errors within 60 s in scope main: connection refused"
COMMITS = """
SELECT count(*) AS records, count(DISTINCT xmin::text) AS commits FROM journal
"""


async def measure(place: Place) -> dict[str, float]:
    """Measure each in a process of its own; code without a journal has nothing to measure."""
    if not (place.side.source / "my_agent/infra/store/journal.py").exists():
        return {row.title: 0.0 for row in ROWS}
    figures = dict[str, float]()
    for work, count in (
        ("record_first", place.count(PAIRS)),
        ("replay", place.count(PAIRS)),
        ("record_together", place.count(TOGETHER)),
        ("run_together", place.count(TOGETHER)),
    ):
        async with place.fresh() as url:
            figures |= (await place.run("journal", work, url, count)).figures
    return figures


async def record_first(url: str, count: int) -> Outcome:
    """Alternate decisions of one request with and without a journal."""
    agent = _agent(calls=0)
    async with _working(url, WARM_UP + count) as (memory, deps, deliveries):
        start, pairs = await gate(), list[tuple[float, float]]()
        async for event, token in deliveries:
            async with memory.settling(token), memory.open(event.scope) as ctx:
                ctx.add(event)
                within = deps.within(ctx.scope, memory.action_id(ctx))
                recorded, _ = await _timed(within.run(agent, PROMPT))
                alone, _ = await _timed(deps.run(agent, PROMPT))
                await memory.act(ctx, token, trigger="bench", output="done")
            pairs.append((recorded, alone))
            if len(pairs) == WARM_UP + count:
                break
    recorded, alone = (statistics.median(each) for each in zip(*pairs[WARM_UP:], strict=True))
    return Outcome(start, time.monotonic(), count, figures={FIRST: recorded - alone})


async def replay(url: str, count: int) -> Outcome:
    """For each event: run without a journal, run and record, fail, and replay; the first and the last untraced, too."""
    from logfire import suppress_instrumentation

    agent, rounds = _agent(calls=CALLS), list[list[tuple[float, float]]]()
    async with _working(url, WARM_UP + count) as (memory, deps, deliveries):

        async def run_alone(_: "DecisionContext") -> None:
            await deps.run(agent, PROMPT)

        async def decide(ctx: "DecisionContext") -> None:
            await deps.within(ctx.scope, memory.action_id(ctx)).run(agent, PROMPT)

        start = await gate()
        async for event, token in deliveries:
            async with memory.settling(token):
                kinds = (run_alone, decide, decide)
                took = [await _attempt(memory, event, kind) for kind in kinds]
                with suppress_instrumentation():
                    took += [await _attempt(memory, event, kind) for kind in (run_alone, decide)]
                async with memory.open(event.scope) as ctx:
                    ctx.add(event)
                    memory.action_id(ctx)
                    await memory.act(ctx, token, trigger="bench", output="done")
            rounds.append(took)
            if len(rounds) == WARM_UP + count:
                break
    wall, cpu = (
        [
            statistics.median(each[part] for each in kind)
            for kind in zip(*rounds[WARM_UP:], strict=True)
        ]
        for part in (0, 1)
    )
    print(
        f"alone, recorded, replayed, and 1 and 3 untraced: {wall} ms; CPU: {cpu} ms",
        file=sys.stderr,
    )
    figures = {
        UNIT: (wall[1] - wall[0]) / UNITS,
        REPLAY: wall[2],
        ALONE: wall[0],
        OURS: wall[4] - wall[3],
        OURS_CPU: cpu[4] - cpu[3],
    }
    return Outcome(start, time.monotonic(), count, figures=figures)


async def record_together(url: str, count: int) -> Outcome:
    """Record what many decisions finish at once, without the runs' own time."""
    from my_agent.infra.store.decision_journal import current_journal

    async def record(_: object) -> None:
        journal = current_journal()
        assert journal is not None
        for number in range(RECORDS):
            await journal.record(str(number), ENTRY, "A response")

    start, end, row = await _decide_together(url, count, record)
    figures = {SHARED: row["records"] / row["commits"], RATE: row["records"] / (end - start)}
    return Outcome(start, end, row["records"], figures=figures)


async def run_together(url: str, count: int) -> Outcome:
    """Let many decisions of one request run at once: the process is busy with the runs."""
    agent = _agent(calls=0)

    async def run(deps: "ReflexDeps") -> None:
        await deps.run(agent, PROMPT)

    start, end, row = await _decide_together(url, count, run)
    figures = {RUNS_SHARED: row["records"] / row["commits"]}
    return Outcome(start, end, row["records"], figures=figures)


async def _decide_together(
    url: str, count: int, decide: "Callable[[ReflexDeps], Awaitable[None]]"
) -> tuple[float, float, Any]:
    """Decide on many events at once; return the start, the end, and what the server counts of the records."""
    opened, recorded = asyncio.Barrier(count + 1), asyncio.Barrier(count + 1)
    claimed: list[tuple[Event, Token]] = []
    async with _working(url, count, in_flight=count) as (memory, deps, deliveries):

        async def handle(event: "Event", token: "Token") -> None:
            async with memory.settling(token), memory.open(event.scope) as ctx:
                ctx.add(event)
                within = deps.within(ctx.scope, memory.action_id(ctx))
                await opened.wait()
                await decide(within)
                await recorded.wait()
                await memory.act(ctx, token, trigger="bench", output="done")

        await gate()
        async for each in deliveries:
            claimed.append(each)
            if len(claimed) == count:
                break
        async with asyncio.TaskGroup() as group:
            for each in claimed:
                group.create_task(handle(*each))
            await opened.wait()
            start = time.monotonic()
            await recorded.wait()
            end = time.monotonic()
        [row] = await deps.store.fetch(COMMITS)
        return start, end, row


@asynccontextmanager
async def _working(
    url: str, count: int, in_flight: int = 1
) -> "AsyncGenerator[tuple[Memory, ReflexDeps, AsyncGenerator[tuple[Event, Token]]]]":
    """Publish events, each with a scope of its own, and give what a loop decides on them with."""
    import httpx2
    from pydantic_ai.models.function import FunctionModel

    from my_agent.core.context import DecisionContext
    from my_agent.core.deps import ReflexDeps
    from my_agent.infra.locks import open_locks
    from my_agent.infra.memory import Memory

    from .contenders.reflex import events, opened

    async with (
        opened(url) as store,
        httpx2.AsyncClient() as http,
        open_locks(store.settings) as locks,
    ):
        await store.publish_many(events(count, scopes=count))
        memory = Memory(store, locks, DecisionContext.restore)
        deps = ReflexDeps(store, http, store.sessions, FunctionModel(_answer), store.settings)
        async with aclosing(store.subscribe(None, in_flight)) as deliveries:
            yield memory, deps, deliveries


def _agent(calls: int) -> "Agent[ReflexDeps, str]":
    """Return an agent whose model calls its tool so many times, one after the other, and then answers."""
    from pydantic_ai import Agent

    from my_agent.core.deps import ReflexDeps

    agent: Agent[ReflexDeps, str] = Agent(
        deps_type=ReflexDeps, instructions=f"Make {calls} calls, then answer."
    )

    @agent.tool_plain
    def look(number: int) -> str:  # pyright: ignore[reportUnusedFunction] - the agent has it
        """Look at the service of this number, and describe it."""
        return f"Service {number} refuses connections. " * 5

    return agent


def _answer(messages: "list[ModelMessage]", info: Any) -> "ModelResponse":
    """Answer at once: with the next call, or with a text after the last one."""
    from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart

    done, calls = len(messages) // 2, int(info.instructions.split()[1])
    if done < calls:
        call = ToolCallPart("look", {"number": done}, tool_call_id=f"call_{done}")
        return ModelResponse(parts=[TextPart("I look at the next one."), call])
    return ModelResponse(parts=[TextPart("All refuse connections.")])


async def _attempt(
    memory: "Memory", event: "Event", decide: "Callable[[DecisionContext], Awaitable[object]]"
) -> tuple[float, float]:
    """Time one attempt at a decision that fails after its run, from the opening of its context."""

    async def attempt() -> None:
        with suppress(_Failed):
            async with memory.open(event.scope) as ctx:
                ctx.add(event)
                await decide(ctx)
                raise _Failed

    return await _timed(attempt())


async def _timed(work: Awaitable[object]) -> tuple[float, float]:
    """Return the time and this process's CPU time that it takes, in milliseconds."""
    begun, cpu = time.perf_counter(), time.process_time()
    await work
    return 1_000 * (time.perf_counter() - begun), 1_000 * (time.process_time() - cpu)


class _Failed(Exception):
    """An attempt has failed, so that the next one replays it."""
