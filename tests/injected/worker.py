"""A worker that writes down what it does: `python -m tests.worker JOURNAL`, with options after it.

Each line of the journal is written before the next thing happens, so that it tells the truth of a
process that was killed.
"""

import argparse
import asyncio
import os
import signal
from contextlib import aclosing

from my_agent.config import get_settings
from my_agent.core.events import Event
from my_agent.infra.database import open_database
from my_agent.infra.store import EventStore, Token


async def work(options: argparse.Namespace) -> None:
    """Handle events until asked to stop, a task for each."""
    journal = os.open(options.journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(what: str, name: str) -> None:
        os.write(journal, f"{what} {name}\n".encode())

    settings = get_settings()
    async with open_database(settings) as database:
        store = EventStore(database.sessions, database.pool, settings=settings)

        async def handle(event: Event, token: Token) -> None:
            note("handled", event.id)
            if event.id == options.die_of:
                os.kill(os.getpid(), signal.SIGKILL)
            await asyncio.sleep(options.pause)
            if await store.ack(token):
                note("acked", event.id)

        async def consume() -> None:
            async with (
                asyncio.TaskGroup() as group,
                aclosing(store.subscribe(batch_size=options.batch)) as owed,
            ):
                async for event, token in owed:
                    note("claimed", event.id)
                    if options.idle:
                        await asyncio.Event().wait()
                    group.create_task(handle(event, token))

        consuming = asyncio.create_task(consume())
        stop = consuming.cancel if options.idle else store.drain
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
        note("ready", str(os.getpid()))
        await asyncio.gather(consuming, return_exceptions=options.idle)
        await store.close()


def main() -> None:
    """Read the options and work."""
    parser = argparse.ArgumentParser()
    parser.add_argument("journal")
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds that handling takes")
    parser.add_argument("--die-of", default="", help="the id of an event that kills the process")
    parser.add_argument("--idle", action="store_true", help="claim, and handle nothing")
    asyncio.run(work(parser.parse_args()))


if __name__ == "__main__":
    main()
