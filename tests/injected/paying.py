"""A worker whose decisions cost requests and tool calls: `python -m tests.paying JOURNAL`, with options after it.

It writes down what it pays for, and stops for good at the place that `--hang` names: `look`, `act` (in a tool),
`decided` (after the trigger, before the action) or `acted` (after the action).
"""

import argparse
import asyncio
import os
import signal

from pydantic_ai import Agent, RunContext

from my_agent.agent import loop, released_loop
from my_agent.config import get_settings
from my_agent.core.context import DecisionContext
from my_agent.core.deps import ReflexDeps
from my_agent.core.events import ActionEvent, Event
from my_agent.runtime import open_service

LOOPS = {"current": loop.run_agent_loop, "released": released_loop.run_agent_loop}


async def work(options: argparse.Namespace) -> None:
    """Decide until asked to stop."""
    journal = os.open(options.journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def note(what: str, name: str) -> None:
        os.write(journal, f"{what} {name}\n".encode())
        if what == options.hang:
            os.write(journal, b"hangs here\n")
            await asyncio.Event().wait()

    agent: Agent[ReflexDeps, str] = Agent(deps_type=ReflexDeps, name="paying")

    @agent.tool
    async def look(ctx: RunContext[ReflexDeps]) -> str:  # pyright: ignore[reportUnusedFunction] - the agent calls it
        """Look at something."""
        await note("look", ctx.deps.call_key(ctx))
        return "seen"

    @agent.tool
    async def act(ctx: RunContext[ReflexDeps]) -> str:  # pyright: ignore[reportUnusedFunction] - the agent calls it
        """Act on it."""
        await note("act", ctx.deps.call_key(ctx))
        return "done"

    async def decide(ctx: DecisionContext, deps: ReflexDeps) -> str:
        seen = ",".join(str(getattr(event, "path", "")) for event in ctx.window(3600))
        await note("decides", seen)
        output = await deps.run(agent, f"{options.prompt} at {ctx.now()}\n{ctx.summarize()}")
        await note("decided", seen)
        return output

    def anything(event: Event, ctx: DecisionContext) -> bool:
        return event.type == "http.request"

    async def acted(_session: object, action: ActionEvent) -> None:
        os.write(journal, f"acts {action.id}\n".encode())

    async with open_service(get_settings(), worker=False) as service:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, service.store.drain)
        os.write(journal, f"ready {os.getpid()}\n".encode())
        run = LOOPS[options.loop]
        await run(service.store, service.deps, anything, decide, service.locks, acted)


def main() -> None:
    """Read the options and work."""
    parser = argparse.ArgumentParser()
    parser.add_argument("journal")
    parser.add_argument("--hang", default="", help="where it stops for good")
    parser.add_argument("--prompt", default="What is it")
    parser.add_argument("--loop", choices=LOOPS, default="current")
    asyncio.run(work(parser.parse_args()))


if __name__ == "__main__":
    main()
