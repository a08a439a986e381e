"""Whether the database can be used, asked on the very connections that the work uses."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import logfire
from sqlalchemy.pool import QueuePool

from ..core.types import Seconds
from .database import Database
from .locks import ScopedLocks
from .store import EventStore
from .store.lanes import CHECK

type Ask = Callable[[], Awaitable[object]]


class Readiness:
    """Asks each connection of the work for an answer.

    A question is neither repeated while it has no answer nor cancelled when nobody waits for it any
    more: the connection's own limit ends it. What is not open yet is opened, and stays for the work.
    """

    def __init__(self, database: Database, store: EventStore, locks: ScopedLocks) -> None:
        self._database = database
        self._store = store
        # Only locks in PostgreSQL have a connection to the database.
        self._locks: Ask | None = getattr(locks, "check", None)
        self._asking: dict[str, asyncio.Task[None]] = {}

    async def problem(self, within: Seconds) -> str | None:
        """Return the first connection that gives no answer in time, and why; None if all do."""
        for name, ask in self._connections().items():
            if name not in self._asking:
                self._asking[name] = task = asyncio.create_task(_asked(ask), name=name)
                task.add_done_callback(self._answered)
        asking = list(self._asking.values())  # other callers wait for the same tasks
        await asyncio.wait(asking, timeout=within)
        return next((f"{task.get_name()}: {_outcome(task)}" for task in asking if _bad(task)), None)

    async def close(self) -> None:
        """Ask nothing more; a connection that is silent gives up within `CANCEL_TIMEOUT`."""
        asking = list(self._asking.values())
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    def _answered(self, task: "asyncio.Task[None]") -> None:
        """Forget a question, so that a later caller gets no old answer."""
        del self._asking[task.get_name()]
        _bad(task)  # if nobody waits for it any more, its error is not reported as overlooked

    def _connections(self) -> Mapping[str, Ask]:
        asks: dict[str, Ask] = {**self._store.checks()}
        if self._locks is not None:
            asks["locks"] = self._locks
        # Where all are in use there is none to ask: another one would need a slot that work does not.
        pool = self._database.pool
        if pool.get_idle_size() or not pool.get_size():
            asks["pool"] = lambda: self._store.fetch(CHECK)
        sessions = self._database.engine.pool
        assert isinstance(sessions, QueuePool), "what `create_engine` makes"  # noqa: S101 - narrows the type
        if sessions.checkedin() or not sessions.checkedout():
            asks["sessions"] = self._ask_a_session
        return asks

    async def _ask_a_session(self) -> None:
        async with self._database.engine.connect():
            pass  # the engine asks what it gives out


async def _asked(ask: Ask) -> None:
    with logfire.suppress_instrumentation():  # asked every few seconds
        await ask()


def _bad(task: "asyncio.Task[None]") -> bool:
    return not task.done() or task.cancelled() or task.exception() is not None


def _outcome(task: "asyncio.Task[None]") -> str:
    if not task.done() or task.cancelled():
        return "it does not answer"
    error = task.exception()
    return str(error) or type(error).__name__
