"""Checks whether the database is available, on the same connections that the service uses."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, cast

import logfire

from ..core.units import Seconds
from .database import Database
from .locks import ScopedLocks
from .store import EventStore
from .store.dedicated import CHECK

if TYPE_CHECKING:
    from sqlalchemy.pool import QueuePool

type Check = Callable[[], Awaitable[object]]


class Readiness:
    """Queries each connection of the service.

    A check that is under way is not repeated, and not cancelled if its caller gives up: the connection's own time
    limit ends it. A connection that is not open yet is opened, and stays open for the service.
    """

    def __init__(self, database: Database, store: EventStore, locks: ScopedLocks) -> None:
        self._database = database
        self._store = store
        # Only locks in PostgreSQL have a connection to the database.
        self._locks: Check | None = getattr(locks, "check", None)
        self._running: dict[str, asyncio.Task[None]] = {}

    async def problem(self, limit: Seconds) -> str | None:
        """Return the first connection that does not answer within `limit` seconds, with the reason; None if all do."""
        for name, check in self._checks().items():
            if name not in self._running:
                self._running[name] = task = asyncio.create_task(_run(check), name=name)
                task.add_done_callback(self._finished)
        running = list(self._running.values())  # other callers wait for the same tasks
        await asyncio.wait(running, timeout=limit)
        return next(
            (f"{task.get_name()}: {_outcome(task)}" for task in running if _failed(task)), None
        )

    async def close(self) -> None:
        """Cancel all checks; a silent connection ends within `CANCEL_TIMEOUT`."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _finished(self, task: "asyncio.Task[None]") -> None:
        """Remove a finished check, so that later callers start a new one."""
        del self._running[task.get_name()]
        _failed(task)  # retrieves its error, so that asyncio does not report it

    def _checks(self) -> Mapping[str, Check]:
        checks: dict[str, Check] = {**self._store.checks()}
        if self._locks is not None:
            checks["locks"] = self._locks
        # Skipped while all connections are in use: a check would wait for one, or open one more.
        pool = self._database.pool
        if pool.get_idle_size() or not pool.get_size():
            checks["pool"] = lambda: self._store.fetch(CHECK)
        if (engine := self._database.used_engine) is not None:
            sessions = cast("QueuePool", engine.pool)  # the class that `create_engine` sets
            if sessions.checkedin() or not sessions.checkedout():
                checks["sessions"] = self._check_session
        return checks

    async def _check_session(self) -> None:
        async with self._database.engine.connect():
            pass  # the engine pings the connection


async def _run(check: Check) -> None:
    with logfire.suppress_instrumentation():  # runs every few seconds
        await check()


def _failed(task: "asyncio.Task[None]") -> bool:
    return not task.done() or task.cancelled() or task.exception() is not None


def _outcome(task: "asyncio.Task[None]") -> str:
    if not task.done() or task.cancelled():
        return "it does not answer"
    error = task.exception()
    return str(error) or type(error).__name__
