"""Rows that modules contribute: what a module declares, and where it measures.

A module of this package that has `ROWS` contributes rows to the table of `make bench`:

    ROWS = (Row("CPU of a decision, beside the bare run", "x", target=1.5, reason=""),)
    ROUNDS = 5  # may be left out: the most rounds that this module takes part in

    async def measure(place: Place) -> dict[str, float]:
        '''Measure once, and return a figure for each title.'''

`measure` is called once a round for each code that is measured. The table shows the median of its figures
with the least and the greatest, the target, and the reason of a miss.
"""

import asyncio
import importlib
import pkgutil
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

from .conditions import SHIPPED, Side, environment
from .gate import Outcome
from .pipes import Pipes
from .table import Row

if TYPE_CHECKING:
    from asyncio.subprocess import Process

    from .server import Server

__all__ = ["Place", "Row", "modules"]

STOP_TIMEOUT = 60.0  # seconds that a started process may take to end


def modules() -> list[ModuleType]:
    """Return the modules of this package that contribute rows, by name."""
    found = importlib.import_module(__package__ or "")
    names = sorted(info.name for info in pkgutil.iter_modules(found.__path__) if not info.ispkg)
    known = [importlib.import_module(f".{name}", __package__) for name in names if name[0] != "_"]
    return [module for module in known if hasattr(module, "ROWS")]


@dataclass(frozen=True)
class Place:
    """Where a module measures: on one server, one side's code, as it is shipped."""

    server: "Server"
    side: Side
    scale: float
    """Below 1 where it is tried only whether all works."""

    def count(self, events: int) -> int:
        """Return how many events stand for so many, at least 100."""
        return max(min(events, 100), round(events * self.scale))

    def fresh(self) -> AbstractAsyncContextManager[str]:
        """Give the URL of an empty database with the store's schema, for the block."""
        return self.server.fresh("reflex", self.side)

    async def prepared(self, name: str, fill: Callable[[str], Awaitable[object]]) -> str:
        """Return the URL of a database that `fill` filled in the first round, and that is kept."""
        return await self.server.prepared(name, self.side, fill)

    async def run(self, module: str, work: str, url: str, count: int) -> Outcome:
        """Run `async def work(url, count) -> Outcome` of `benchmarks.module` in a process of its own."""
        [outcome] = await self.server.run([(module, work, url, count)], SHIPPED, self.side)
        return outcome

    def environment(self, url: str, **settings: str) -> dict[str, str]:
        """Return the environment of a process as shipped, on a database; `settings` in capitals."""
        return {
            **environment(SHIPPED, self.side, self.server.root),
            "DATABASE_URL": url,
            **settings,
        }

    @asynccontextmanager
    async def started(
        self, *arguments: str, url: str, **settings: str
    ) -> AsyncGenerator["tuple[Process, Pipes]"]:
        """Run `python ARGUMENTS` for the block, with pipes that are read; then stop it.

        For the service itself, `started("-m", "my_agent", "serve", "--port", "0", url=url)`.
        """
        process = await self.server.start(arguments, self.environment(url, **settings))
        pipes = Pipes(process)
        try:
            yield process, pipes
        finally:
            if process.returncode is None:
                process.terminate()
            try:
                await asyncio.wait_for(pipes.close(), STOP_TIMEOUT)
            except TimeoutError:
                process.kill()
            await process.wait()
