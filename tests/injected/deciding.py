"""A worker that writes down which event its filter and which scope its trigger looks at, and when.

Run it with `python -m tests.deciding JOURNAL`. It acts on every five events of a scope. The journal's
lines are in the order in which things happened, in all processes together.
"""

import argparse
import asyncio
import os
import signal

from my_agent.agent.loop import run_agent_loop
from my_agent.config import get_settings
from my_agent.core.context import DecisionContext
from my_agent.core.deps import ReflexDeps
from my_agent.core.events import Event
from my_agent.runtime import open_service

ENOUGH = 5  # events for an action


async def work(options: argparse.Namespace) -> None:
    """Decide until asked to stop."""
    journal = os.open(options.journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(what: str, name: str) -> None:
        os.write(journal, f"{what} {name} {os.getpid()}\n".encode())

    async def enough(ctx: DecisionContext, deps: ReflexDeps) -> int | None:
        note("enter", ctx.scope)
        places = [(event.timestamp, event.seq) for event in ctx.events]
        if places != sorted(places):
            note("unsorted", ctx.scope)
        await asyncio.sleep(options.pause)
        note("leave", ctx.scope)
        return len(ctx.events) if len(ctx.events) >= ENOUGH else None

    def anything(event: Event, ctx: DecisionContext) -> bool:
        note("looked", f"{event.scope}:{getattr(event, 'path', '')}")
        return True

    async with open_service(get_settings(), worker=False) as service:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, service.store.drain)
        note("ready", str(os.getpid()))
        await run_agent_loop(service.store, service.deps, anything, enough, service.locks)


def main() -> None:
    """Read the options and work."""
    parser = argparse.ArgumentParser()
    parser.add_argument("journal")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds that a decision takes")
    asyncio.run(work(parser.parse_args()))


if __name__ == "__main__":
    main()
