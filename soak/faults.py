"""Making the faults of a plan, and ending them."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import asyncpg

from .plan import Fault, Kind
from .processes import Process
from .provider import Provider
from .proxy import Proxy
from .server import Server

NOT_NOW = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)
"""What a fault meets when another one has just taken the server away."""


@dataclass
class Faults:
    """Everything that can go wrong, and what did."""

    server: Server
    proxy: Proxy
    provider: Provider
    processes: Mapping[str, Process]
    clock: Callable[[], float]
    made: dict[Kind, int] = field(default_factory=dict[Kind, int])
    skipped: int = 0
    current: list[str] = field(default_factory=list[str])
    """What is wrong just now, or was so last."""
    _outages: list[str] = field(default_factory=list[str])

    async def follow(self, plan: list[Fault]) -> None:
        """Make each fault at its time; return when all of them are over."""
        async with asyncio.TaskGroup() as group:
            for fault in plan:
                await asyncio.sleep(max(0.0, fault.at - self.clock()))
                group.create_task(self._make_and_count(fault))
        self.current = ["no fault"]

    async def _make_and_count(self, fault: Fault) -> None:
        self.current = [*self.current[-1:], str(fault)]
        made = False
        with suppress(*NOT_NOW):
            made = await self._make(fault)
        if made:
            self.made[fault.kind] = self.made.get(fault.kind, 0) + 1
        else:
            self.skipped += 1

    async def _make(self, fault: Fault) -> bool:
        """Make a fault and end it; False if it is impossible just now."""
        match fault.kind:
            case Kind.KILL:
                return self.processes[fault.detail].kill()
            case Kind.FREEZE:
                return await self.processes[fault.detail].freeze(fault.seconds)
            case Kind.STOP:
                return await self.processes[fault.detail].stop()
            case Kind.RESTART:
                self.proxy.target = await self.server.restart("fast")
            case Kind.CRASH:
                self.proxy.target = await self.server.restart("immediate")
            case Kind.SILENCE:
                return self.proxy.silence() > 0
            case Kind.TERMINATE:
                return await self.server.end_sessions() > 0
            case Kind.SLOTS:
                async with self.server.no_free_slot(fault.detail):
                    await asyncio.sleep(fault.seconds)
            case Kind.TRANSACTION:
                async with self.server.long_transaction():
                    await asyncio.sleep(fault.seconds)
            case Kind.PROVIDER:
                await self._outage(fault)
        return True

    async def _outage(self, fault: Fault) -> None:
        """Let the provider fail; when outages overlap, the latest counts."""
        self._outages.append(fault.detail)
        self.provider.outage = fault.detail
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            self._outages.remove(fault.detail)
            self.provider.outage = self._outages[-1] if self._outages else ""
