"""One handler at a time for each scope, across all processes, by PostgreSQL's advisory locks.

All of a process's locks live on one dedicated connection: a pool would hand a locked session to
somebody else. A process that dies takes its session, and so its locks, with it. One that is frozen
sends nothing on it, and the server ends a session that is idle for a lease. Whatever ends the session,
its locks count as lost: they are taken again before anything is done under them, and the scope's
version in the database keeps two handlers from acting twice.
"""

import asyncio
import hashlib
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import asyncpg
import logfire

from ..config import Settings
from ..core.types import Scope, Seconds
from .background import Background
from .database import CLOSE_TIMEOUT, DatabaseUnavailable, connect
from .supervise import Supervised

POLL: Seconds = 0.05  # between looks at a lock that another process holds
SIGNS_PER_LEASE = 3  # of life on an idle session: two may be lost

END_WHEN_IDLE = "SELECT set_config('idle_session_timeout', $1, false)"
SIGN_OF_LIFE = "SELECT true"
TRY_LOCK = "SELECT pg_try_advisory_lock($1::bigint)"
UNLOCK = "SELECT pg_advisory_unlock($1::bigint)"

LOST = (OSError, asyncpg.InterfaceError, asyncpg.PostgresError)
"""What a statement raises when its session is lost; `DatabaseUnavailable` is an `OSError`."""


class ScopeBusy(Exception):
    """Another handler has the scope, and the caller does not want to wait."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(f"scope {scope!r} is being handled")
        self.scope = scope


class ScopedLocks:
    """The advisory locks of one process."""

    across_processes = True
    """All processes on one database respect them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lease = settings.event_lease
        self._session: asyncpg.Connection | None = None
        self._answered = 0.0
        """When the server last answered on the session, by the event loop's clock."""
        self._talking = asyncio.Lock()  # a connection runs one statement at a time
        self._held: dict[Scope, asyncpg.Connection | None] = {}
        """The session that has each lock, or None while it is asked for one."""
        self._background = Background()

    @asynccontextmanager
    async def acquire(self, scope: Scope, *, wait: bool = True) -> AsyncGenerator[None]:
        """Hold the scope's lock for the block.

        Raises:
            ScopeBusy: with `wait=False`, somebody else holds it.
        """
        while not await self._try(scope):
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
        """Make sure that the scope's lock is still held; one that was lost is taken again.

        Raises:
            ScopeBusy: it was lost, and another handler has it.
        """
        if scope not in self._held or await self._lives(self._held[scope]):
            return
        # To its end, whatever becomes of the caller: its release waits for it.
        if not await asyncio.shield(asyncio.create_task(self._lock(scope))):
            raise ScopeBusy(scope)

    def is_locked(self, scope: Scope) -> bool:
        """Tell whether this process holds the scope's lock."""
        return scope in self._held

    async def keep(self) -> None:
        """Give signs of life on the session for ever, so that the server does not end it."""
        while True:
            await asyncio.sleep(self._lease / SIGNS_PER_LEASE)
            if self._session is not None and not self._session.is_closed():
                await self._lives(self._session, now=True)

    async def close(self) -> None:
        """Close the session, which gives up all locks."""
        await self._background.close(CLOSE_TIMEOUT)
        if self._session is not None:
            try:
                await self._session.close(timeout=CLOSE_TIMEOUT)
            except LOST:
                self._session.terminate()

    async def check(self) -> None:
        """Ask the session of the locks for an answer.

        Raises:
            DatabaseUnavailable: there is none.
        """
        async with self._talking:
            await (await self._connected()).fetchval(SIGN_OF_LIFE)

    async def _try(self, scope: Scope) -> bool:
        if scope in self._held:
            return False  # a session would be given its own lock twice
        self._held[scope] = None
        asking = asyncio.create_task(self._take(scope))
        try:
            await asyncio.shield(asking)
        except asyncio.CancelledError:
            # The server may give the lock all the same, which then nobody else would release.
            self._background.start(self._undo(asking, scope), f"unlocking {scope!r}")
            raise
        return scope in self._held

    async def _take(self, scope: Scope) -> None:
        try:
            await self._lock(scope)
        finally:
            if self._held[scope] is None:
                del self._held[scope]

    async def _undo(self, asking: "asyncio.Task[None]", scope: Scope) -> None:
        await asyncio.wait([asking])
        if not asking.exception() and scope in self._held:
            await self._release(scope)

    async def _lock(self, scope: Scope) -> bool:
        """Ask for a lock, and note the session that has it; False if another process has it."""
        async with self._talking:
            fresh = self._session is None or self._session.is_closed()
            try:
                session = await self._connected()
                locked = await self._ask(session, TRY_LOCK, lock_key(scope))
            except LOST:
                if fresh:
                    raise
                session = await self._connected()  # what was lost, was lost while it was idle
                locked = await self._ask(session, TRY_LOCK, lock_key(scope))
            if locked:
                self._held[scope] = session
        return bool(locked)

    async def _release(self, scope: Scope) -> None:
        try:
            async with self._talking:
                session = self._held[scope]
                if session is not None and not session.is_closed():
                    await self._ask(session, UNLOCK, lock_key(scope))
        except LOST as error:
            # The session ended, and its locks with it.
            logfire.warn("The lock of {scope} was lost: {error}", scope=scope, error=repr(error))
        finally:
            del self._held[scope]

    async def _lives(self, session: asyncpg.Connection | None, *, now: bool = False) -> bool:
        """Tell whether a session has its locks; the server is asked if it was silent for a lease."""
        if session is None or session.is_closed():
            return False
        silent = asyncio.get_running_loop().time() - self._answered
        if silent < self._lease and not now:
            return True
        try:
            async with self._talking:
                await self._ask(session, SIGN_OF_LIFE)
        except LOST as error:
            logfire.warn("The session of all locks was lost: {error}", error=repr(error))
            return False
        return True

    async def _ask(self, session: asyncpg.Connection, statement: str, *args: object) -> object:
        """Run a statement; a session that does not answer it for a lease, or fails, is lost.

        Raises:
            DatabaseUnavailable: the session is lost, or did not answer.
        """
        try:
            async with asyncio.timeout(self._lease):
                answer = await session.fetchval(statement, *args)
        except TimeoutError as error:
            session.terminate()
            raise DatabaseUnavailable("the session of all locks did not answer") from error
        except LOST:
            session.terminate()
            raise
        self._answered = asyncio.get_running_loop().time()
        return answer

    async def _connected(self) -> asyncpg.Connection:
        if self._session is None or self._session.is_closed():
            self._session = await connect(self._settings)
            await self._ask(self._session, END_WHEN_IDLE, f"{self._lease * 1000:.0f}ms")
        return self._session


def lock_key(scope: Scope) -> int:
    """Return the scope's 64-bit key, the same in every process."""
    digest = hashlib.blake2b(scope.encode(), digest_size=8).digest()
    return int.from_bytes(digest, signed=True)


@asynccontextmanager
async def open_locks(settings: Settings) -> AsyncGenerator[ScopedLocks]:
    """Give the locks of this process, and their connection, for the block."""
    locks = ScopedLocks(settings)
    keeping = asyncio.create_task(Supervised("locks", locks.keep).run())
    try:
        yield locks
    finally:
        keeping.cancel()
        await locks.close()
