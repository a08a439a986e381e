"""Workers of a test as real processes: what they wrote down, and how they end."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from my_agent.infra.store import EventStore

from .processes import PATIENCE, start

type StartWorker = Callable[..., Awaitable[asyncio.subprocess.Process]]
"""Starts a worker with these options and this environment, and waits until it is ready."""


class Journal:
    """What the workers of a test wrote down."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def count(self, what: str) -> Counter[str]:
        """Count how often something was done with each event."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return Counter(line.split()[1] for line in lines if line.split()[0] == what)

    async def until(self, what: str, count: int) -> None:
        """Wait until something was done so often."""
        deadline = time.monotonic() + PATIENCE
        while (seen := self.count(what).total()) < count:
            assert time.monotonic() < deadline, f"{count} {what} after a while, and not {seen}"
            await asyncio.sleep(0.02)


@asynccontextmanager
async def workers(journal: Journal, module: str) -> AsyncGenerator[StartWorker]:
    """Give what starts workers that write to a journal, which do not outlive the block."""
    async with AsyncExitStack() as stack:

        async def start_worker(*options: str, env: dict[str, str]) -> asyncio.subprocess.Process:
            process = await start("-m", f"tests.{module}", str(journal.path), *options, env=env)
            stack.push_async_callback(kill, process)
            async with asyncio.timeout(PATIENCE):
                while not journal.count("ready")[str(process.pid)]:
                    await asyncio.sleep(0.02)
            return process

        yield start_worker


async def kill(process: asyncio.subprocess.Process) -> None:
    """End a process without a warning, if it still runs."""
    if process.returncode is None:
        process.kill()
        await process.wait()


async def stop(*processes: asyncio.subprocess.Process) -> None:
    """Ask processes to stop, which they must do without an error."""
    for process in processes:
        process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(PATIENCE):
        assert [await process.wait() for process in processes] == [0] * len(processes)


async def until_done(store: EventStore, dead: int = 0, patience: float = PATIENCE) -> None:
    """Wait until nothing is owed but so many dead letters."""
    deadline = time.monotonic() + patience
    while True:
        [stats] = await store.stats()
        if (stats.depth, stats.in_flight, stats.dead) == (0, 0, dead):
            return
        assert time.monotonic() < deadline, f"everything is settled in the end, but here {stats}"
        await asyncio.sleep(0.05)
