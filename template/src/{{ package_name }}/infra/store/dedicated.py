"""Dedicated connections: each has one job, outside the pool."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence

import asyncpg

from ...core.units import Seconds
from ..database import CLOSE_TIMEOUT, DatabaseUnavailable, Row

CHECK = "SELECT current_setting('transaction_read_only') AS read_only"

type Connect = Callable[[], Awaitable[asyncpg.Connection]]


class DedicatedConnection:
    """A dedicated connection, opened on first use and replaced once it is closed."""

    def __init__(self, connect: Connect, limit: Seconds | None = None) -> None:
        self._connect = connect
        self._limit = limit  # of a statement; None for the connection's own limit
        self._connection: asyncpg.Connection | None = None
        self._turn = asyncio.Lock()  # a connection runs one statement at a time
        self._failed_at = 0.0
        self._failure = ""
        """The last error of opening a connection."""
        self._abandoned = False

    async def fetch(self, sql: str, /, *args: object) -> Sequence[Row]:
        """Run one statement in its own transaction and return its rows.

        Raises:
            DatabaseUnavailable: the database does not answer, or the statement exceeded its time limit.
        """
        asked = time.monotonic()
        async with self._turn:
            connection = await self._connected(asked)
            return await connection.fetch(sql, *args, timeout=self._limit)

    async def check(self) -> None:
        """Query the server, after the statements that wait already.

        Raises:
            DatabaseUnavailable: the server does not answer, or its transactions are read-only.
        """
        [row] = await self.fetch(CHECK)
        if row["read_only"] == "on":
            raise DatabaseUnavailable("it takes no changes: its transactions are read-only")

    async def close(self) -> None:
        """Wait for the running statement, and close the connection within `CLOSE_TIMEOUT`."""
        with contextlib.suppress(TimeoutError, DatabaseUnavailable, asyncpg.InterfaceError):
            async with asyncio.timeout(CLOSE_TIMEOUT), self._turn:
                if self._connection is not None:
                    await self._connection.close()
        self.terminate()

    def terminate(self) -> None:
        """Close the connection at once; the running statement fails."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    def abandon(self) -> None:
        """Close the connection at once and for good: the running statement and all later ones fail."""
        self._abandoned = True
        self.terminate()

    async def _connected(self, asked: float) -> asyncpg.Connection:
        if self._abandoned:
            raise DatabaseUnavailable("the service stops, and waits for it no longer")
        if self._connection is not None and not self._connection.is_closed():
            return self._connection
        if self._failed_at > asked:  # while this caller waited: do not make each wait for a timeout
            raise DatabaseUnavailable(self._failure)
        try:
            self._connection = await self._connect()
        except DatabaseUnavailable as error:
            self._failure, self._failed_at = str(error), time.monotonic()
            raise
        return self._connection
