"""Locks that allow one handler at a time for each scope, across all processes, by PostgreSQL's advisory locks.

All locks of a process belong to the session of one dedicated connection, since a pool would give that session to other
code. If the process dies, its session and its locks end. If it freezes, the server ends its session after one lease
without a statement. After the session ended, each lock is acquired again before its handler acts. The scope's version in
the database prevents that two handlers act.
"""

import asyncio
import hashlib
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import asyncpg
import logfire

from ..config import Settings
from ..core.units import Scope, Seconds
from .database import CLOSE_TIMEOUT, DatabaseUnavailable, connect
from .process.background import BackgroundTasks
from .process.supervise import Supervised

POLL: Seconds = 0.05  # between attempts to get a lock that another process has
KEEPALIVES_PER_LEASE = 3  # statements on an idle session; two may fail before the server ends it

SET_IDLE_TIMEOUT = "SELECT set_config('idle_session_timeout', $1, false)"
KEEPALIVE = "SELECT true"
TRY_LOCK = "SELECT pg_try_advisory_lock($1::bigint)"
UNLOCK = "SELECT pg_advisory_unlock($1::bigint)"

SESSION_ERRORS = (OSError, asyncpg.InterfaceError, asyncpg.PostgresError)
"""The errors of a statement whose session is lost; `DatabaseUnavailable` is an `OSError`."""


class ScopeBusy(Exception):
    """Another handler has the scope's lock."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(f"scope {scope!r} is being handled")
        self.scope = scope


class ScopedLocks:
    """The advisory locks of one process."""

    across_processes = True
    """Whether other processes respect these locks."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lease = settings.event_lease
        self._session: asyncpg.Connection | None = None
        self._answered_at = 0.0
        """When the server last answered on the session, by the event loop's clock."""
        self._statement_lock = asyncio.Lock()  # a connection runs one statement at a time
        self._held: dict[Scope, asyncpg.Connection | None] = {}
        """The session that has each lock; None while the lock is being acquired."""
        self._background = BackgroundTasks()

    @asynccontextmanager
    async def acquire(self, scope: Scope, *, wait: bool = True) -> AsyncGenerator[None]:
        """Hold the scope's lock for the block.

        Raises:
            ScopeBusy: with `wait=False`, another handler has it.
        """
        while not await self._try_lock(scope):
            if not wait:
                raise ScopeBusy(scope)
            await asyncio.sleep(POLL * random.uniform(0.5, 1.5))  # noqa: S311 - only jitter
        try:
            yield
        finally:
            await asyncio.shield(
                self._background.start(self._release(scope), f"unlocking {scope!r}")
            )

    async def confirm(self, scope: Scope) -> None:
        """Ensure that this process has the scope's lock; acquire a lost one again.

        Raises:
            ScopeBusy: it was lost, and another handler has it.
        """
        if scope not in self._held or await self._is_alive(self._held[scope]):
            return
        # Shielded, since the release after a cancellation waits for it.
        if not await asyncio.shield(asyncio.create_task(self._lock(scope))):
            raise ScopeBusy(scope)

    def is_locked(self, scope: Scope) -> bool:
        """Return whether this process has the scope's lock."""
        return scope in self._held

    async def keep_alive(self) -> None:
        """Run a statement on the session at intervals, without end, so that the server keeps it."""
        while True:
            await asyncio.sleep(self._lease / KEEPALIVES_PER_LEASE)
            if self._session is not None and not self._session.is_closed():
                await self._is_alive(self._session, force=True)

    async def close(self) -> None:
        """Close the session, which releases all locks."""
        await self._background.close(CLOSE_TIMEOUT)
        if self._session is not None:
            try:
                await self._session.close(timeout=CLOSE_TIMEOUT)
            except SESSION_ERRORS:
                self._session.terminate()

    async def check(self) -> None:
        """Query the session of the locks.

        Raises:
            DatabaseUnavailable: it does not answer.
        """
        async with self._statement_lock:
            await (await self._open_session()).fetchval(KEEPALIVE)

    async def _try_lock(self, scope: Scope) -> bool:
        if scope in self._held:
            return False  # a session can acquire its own lock twice
        self._held[scope] = None
        acquiring = asyncio.create_task(self._acquire(scope))
        try:
            await asyncio.shield(acquiring)
        except asyncio.CancelledError:
            # The server may still grant the lock, which must then be released.
            self._background.start(self._undo(acquiring, scope), f"unlocking {scope!r}")
            raise
        return scope in self._held

    async def _acquire(self, scope: Scope) -> None:
        try:
            await self._lock(scope)
        finally:
            if self._held[scope] is None:
                del self._held[scope]

    async def _undo(self, acquiring: "asyncio.Task[None]", scope: Scope) -> None:
        await asyncio.wait([acquiring])
        if not acquiring.exception() and scope in self._held:
            await self._release(scope)

    async def _lock(self, scope: Scope) -> bool:
        """Try to acquire a lock; return False if another process has it."""
        async with self._statement_lock:
            fresh = self._session is None or self._session.is_closed()
            try:
                session = await self._open_session()
                locked = await self._run(session, TRY_LOCK, lock_key(scope))
            except SESSION_ERRORS:
                if fresh:
                    raise
                session = await self._open_session()  # the session was lost while it was idle
                locked = await self._run(session, TRY_LOCK, lock_key(scope))
            if locked:
                self._held[scope] = session
        return bool(locked)

    async def _release(self, scope: Scope) -> None:
        try:
            async with self._statement_lock:
                session = self._held[scope]
                if session is not None and not session.is_closed():
                    await self._run(session, UNLOCK, lock_key(scope))
        except SESSION_ERRORS as error:
            # The session ended, and its locks with it.
            logfire.warn("The lock of {scope} was lost: {error}", scope=scope, error=repr(error))
        finally:
            del self._held[scope]

    async def _is_alive(self, session: asyncpg.Connection | None, *, force: bool = False) -> bool:
        """Return whether a session has its locks; query the server if its last answer is a lease old."""
        if session is None or session.is_closed():
            return False
        silent = asyncio.get_running_loop().time() - self._answered_at
        if silent < self._lease and not force:
            return True
        try:
            async with self._statement_lock:
                await self._run(session, KEEPALIVE)
        except SESSION_ERRORS as error:
            logfire.warn("The session of all locks was lost: {error}", error=repr(error))
            return False
        return True

    async def _run(self, session: asyncpg.Connection, statement: str, *args: object) -> object:
        """Run a statement; end the session if the statement fails or gets no answer within a lease.

        Raises:
            DatabaseUnavailable: the session is lost, or does not answer.
        """
        try:
            async with asyncio.timeout(self._lease):
                answer = await session.fetchval(statement, *args)
        except TimeoutError as error:
            session.terminate()
            raise DatabaseUnavailable("the session of all locks did not answer") from error
        except SESSION_ERRORS:
            session.terminate()
            raise
        self._answered_at = asyncio.get_running_loop().time()
        return answer

    async def _open_session(self) -> asyncpg.Connection:
        if self._session is None or self._session.is_closed():
            self._session = await connect(self._settings)
            await self._run(self._session, SET_IDLE_TIMEOUT, f"{self._lease * 1000:.0f}ms")
        return self._session


def lock_key(scope: Scope) -> int:
    """Return the 64-bit key of a scope's advisory lock, by BLAKE2b."""
    digest = hashlib.blake2b(scope.encode(), digest_size=8).digest()
    return int.from_bytes(digest, signed=True)


@asynccontextmanager
async def open_locks(settings: Settings) -> AsyncGenerator[ScopedLocks]:
    """Open the locks of this process, and close their connection at the end of the block."""
    locks = ScopedLocks(settings)
    keepalive = asyncio.create_task(Supervised("locks", locks.keep_alive).run())
    try:
        yield locks
    finally:
        keepalive.cancel()
        await locks.close()
