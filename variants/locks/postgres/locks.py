"""One handler at a time for each scope, across all processes, by PostgreSQL's advisory locks.

All of a process's locks live on one dedicated connection: a pool would hand a locked session to
somebody else. A process that dies takes its connection, and so its locks, with it. Should the
connection break under a handler, the scope's version in the database keeps it from acting twice.
"""

import asyncio
import contextlib
import hashlib
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import asyncpg
import logfire

from ..config import Settings
from ..core.types import Scope, Seconds
from .database import CLOSE_TIMEOUT, DATABASE_AWAY, connect

POLL: Seconds = 0.05  # between looks at a lock that another process holds

TRY_LOCK = "SELECT pg_try_advisory_lock($1::bigint)"
UNLOCK = "SELECT pg_advisory_unlock($1::bigint)"


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
        self._connection: asyncpg.Connection | None = None
        self._talking = asyncio.Lock()  # a connection runs one statement at a time
        self._held: set[Scope] = set()  # a session would be given its own lock twice

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
            await asyncio.shield(self._release(scope))

    def is_locked(self, scope: Scope) -> bool:
        """Tell whether this process holds the scope's lock."""
        return scope in self._held

    async def close(self) -> None:
        """Close the connection, which gives up all locks."""
        if self._connection is not None:
            with contextlib.suppress(TimeoutError, *DATABASE_AWAY):
                await self._connection.close(timeout=CLOSE_TIMEOUT)
            self._connection.terminate()

    async def check(self) -> None:
        """Ask the connection of the locks for an answer.

        Raises:
            DatabaseUnavailable: there is none.
        """
        async with self._talking:
            await (await self._connected()).fetchval("SELECT 1")

    async def _try(self, scope: Scope) -> bool:
        if scope in self._held:
            return False
        self._held.add(scope)
        locked = False
        try:
            async with self._talking:
                connection = await self._connected()
                locked = bool(await connection.fetchval(TRY_LOCK, lock_key(scope)))
        finally:
            if not locked:
                self._held.discard(scope)
        return locked

    async def _release(self, scope: Scope) -> None:
        try:
            async with self._talking:
                if self._connection is not None and not self._connection.is_closed():
                    await self._connection.fetchval(UNLOCK, lock_key(scope))
        except DATABASE_AWAY as error:
            # The session ended, and its locks with it.
            logfire.warn("The lock of {scope} was lost: {error}", scope=scope, error=repr(error))
        finally:
            self._held.discard(scope)

    async def _connected(self) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect(self._settings)
        return self._connection


def lock_key(scope: Scope) -> int:
    """Return the scope's 64-bit key, the same in every process."""
    digest = hashlib.blake2b(scope.encode(), digest_size=8).digest()
    return int.from_bytes(digest, signed=True)


@asynccontextmanager
async def open_locks(settings: Settings) -> AsyncGenerator[ScopedLocks]:
    """Give the locks of this process, and their connection, for the block."""
    locks = ScopedLocks(settings)
    try:
        yield locks
    finally:
        await locks.close()
