"""asyncpg connections that detect a silent server and raise `DatabaseUnavailable`.

Each statement has a time limit on the client's side. If the server acknowledges the cancellation, the connection
stays open. Otherwise it is closed, and the next statement opens another one.
"""

import asyncio
import socket
import time
from collections.abc import Awaitable
from typing import Any, Final

import asyncpg

from ..config import Settings
from ..core.units import Seconds
from .unavailable import (
    SERVER_STATES,
    DatabaseUnavailable,
    StatementTooSlow,
    as_unavailable,
    note_waiting,
    reason,
)

CONNECT_TIMEOUT: Seconds = 10.0  # of opening a connection
CANCEL_TIMEOUT: Seconds = 2.0  # for the server to acknowledge the cancellation of a statement
KEEPALIVE_PROBES = 3
LONG_STATEMENT_FACTOR = 10  # times DATABASE_TIMEOUT, for statements that read many rows

APPLICATION_NAME = {"application_name": "agent"}
# An idle transaction holds back VACUUM and all followers of the log, so the server ends it.
IDLE_TRANSACTION_TIMEOUT: Seconds = 60.0
IDLE_TRANSACTION_SETTINGS = {"idle_in_transaction_session_timeout": "60000"}  # ms, the same
# The store's statements require these, whatever the defaults of the database or the role are.
# `default_transaction_read_only` is left alone, since an administrator sets it to prevent writes.
READ_COMMITTED: Final = "read_committed"
STATEMENT_SETTINGS = {"default_transaction_isolation": "read committed", "lock_timeout": "0"}

CONNECT_ERRORS = (
    OSError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
"""The errors of opening a connection, before any statement."""


class Connection(asyncpg.Connection):
    """A connection whose statements raise `DatabaseUnavailable` if the database is unavailable.

    Its cursors and prepared statements raise the driver's errors.
    """

    states: tuple[type[BaseException], ...] = SERVER_STATES
    raises_timeout_error = True
    """Whether a statement that exceeds its own `timeout` raises `TimeoutError`, as the driver does."""
    used_at = 0.0
    """When the last statement ended, on this process's monotonic clock."""

    def execute(self, query: str, *args: object, **options: Any) -> Any:
        """Run one statement, or several without arguments."""
        return self._attempt(super().execute(query, *args, **options), options.get("timeout"))

    def executemany(self, command: str, args: Any, **options: Any) -> Any:
        """Run a statement for each sequence of arguments."""
        return self._attempt(super().executemany(command, args, **options), options.get("timeout"))

    def fetch(self, query: str, *args: object, **options: Any) -> Any:
        """Run a statement and return its rows."""
        return self._attempt(super().fetch(query, *args, **options), options.get("timeout"))

    def fetchval(self, query: str, *args: object, **options: Any) -> Any:
        """Run a statement and return one value of its first row."""
        return self._attempt(super().fetchval(query, *args, **options), options.get("timeout"))

    def fetchrow(self, query: str, *args: object, **options: Any) -> Any:
        """Run a statement and return its first row."""
        return self._attempt(super().fetchrow(query, *args, **options), options.get("timeout"))

    def prepare(self, query: str, **options: Any) -> Any:
        """Prepare a statement."""
        return self._attempt(super().prepare(query, **options), options.get("timeout"))

    def keep_alive(self, limit: Seconds) -> None:
        """Set the socket options by which the system closes a connection that is silent for about `limit` s."""
        sock = self._transport.get_extra_info("socket")
        if sock is None or sock.family not in {socket.AF_INET, socket.AF_INET6}:
            return
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        pause = max(1, int(limit / KEEPALIVE_PROBES))
        options = {  # those that the system supports
            "TCP_KEEPIDLE": pause,
            "TCP_KEEPALIVE": pause,  # the same on macOS
            "TCP_KEEPINTVL": pause,
            "TCP_KEEPCNT": KEEPALIVE_PROBES,
            "TCP_USER_TIMEOUT": int(limit * 1000),
        }
        for name, value in options.items():
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    async def _attempt[T](self, statement: Awaitable[T], own_limit: Seconds | None) -> T:
        try:
            return await statement
        except DatabaseUnavailable:
            raise
        except asyncio.CancelledError as error:
            if not self.is_closed() and not await self._answers():
                note_waiting(error)
            raise
        except TimeoutError as error:
            if not await self._answers() or own_limit is None:
                raise DatabaseUnavailable("the server did not answer in time") from error
            if self.raises_timeout_error:
                raise
            raise StatementTooSlow(f"a statement took longer than {own_limit:g} s") from error
        except Exception as error:
            lost = self.is_closed() and not self.was_idle_in_transaction()
            found = as_unavailable(error, closed=lost, states=self.states)
            if found is None:
                raise
            raise found from error
        finally:
            if not self.is_closed():
                self.used_at = time.monotonic()

    def was_idle_in_transaction(self) -> bool:
        """Return whether the server closed the connection because of an idle transaction.

        asyncpg does not keep the reason, so it is inferred from the transaction and the idle time.
        """
        inner: Any = self
        idle = time.monotonic() - self.used_at
        return self.is_closed() and inner._top_xact is not None and idle >= IDLE_TRANSACTION_TIMEOUT

    async def _cancel(self, *waiters: Any) -> None:
        """Cancel a statement; close the connection if the server does not acknowledge it in `CANCEL_TIMEOUT`.

        Without this, asyncpg waits for the time limit of a statement.
        """
        inner: Any = super()  # the stubs lack `_cancel`
        ending = asyncio.get_running_loop().call_later(CANCEL_TIMEOUT, self.terminate)
        try:
            await inner._cancel(*waiters)
        finally:
            ending.cancel()

    async def _answers(self) -> bool:
        """Return whether the server answers; if not, close the connection."""
        try:
            await super().execute("SELECT 1", timeout=CANCEL_TIMEOUT)
        except asyncpg.InFailedSQLTransactionError:
            return True
        except Exception:  # after any error the connection is unusable
            self.terminate()
            return False
        return True


class ServiceConnection(Connection):
    """A connection for the service's own statements, whose cancellation counts as an unavailable database."""

    states = (*SERVER_STATES, asyncpg.QueryCanceledError)
    raises_timeout_error = False


class PoolerConnection(ServiceConnection):
    """A connection through a pooler, which refuses settings at the start: each transaction sets its isolation."""

    async def fetch(self, query: str, *args: object, **options: Any) -> Any:
        """Run a statement, in its own transaction unless one is open, and return its rows."""
        if self.is_in_transaction():
            return await super().fetch(query, *args, **options)
        async with self.transaction(isolation=READ_COMMITTED):
            return await super().fetch(query, *args, **options)


class UninstrumentedConnection(asyncpg.Connection):
    """Keeps the methods as they were before `logfire.instrument_asyncpg()` replaces them."""

    execute = asyncpg.Connection.execute
    fetch = asyncpg.Connection.fetch
    fetchval = asyncpg.Connection.fetchval


class UntracedConnection(ServiceConnection, UninstrumentedConnection):
    """A connection without spans for its statements, since tracing one takes longer than running it."""


class Pool(asyncpg.Pool):
    """A pool with a time limit for acquiring a connection."""

    acquire_timeout: Seconds | None = None

    async def _acquire(self, limit: Seconds | None) -> Any:
        inner: Any = super()  # the stubs lack `_acquire`
        try:
            return await inner._acquire(limit or self.acquire_timeout)
        except TimeoutError as error:
            message = f"all {self.get_max_size()} connections of the pool are in use"
            raise DatabaseUnavailable(message) from error
        except asyncio.CancelledError as error:
            note_waiting(error)
            raise
        except asyncpg.InterfaceError as error:
            if not self.is_closing():
                raise
            raise DatabaseUnavailable("the pool is closed") from error


async def open_connection(*args: Any, tcp_timeout: Seconds, **options: Any) -> Connection:
    """Open a connection as `asyncpg.connect` does; the system closes it once silent for `tcp_timeout` seconds.

    Raises:
        DatabaseUnavailable: the server cannot be reached, or refuses the connection.
    """
    options = {"connection_class": Connection, **options}
    try:
        connection: Any = await asyncpg.connect(*args, **options)
    except DatabaseUnavailable:
        raise
    except asyncio.CancelledError as error:
        note_waiting(error)
        raise
    except CONNECT_ERRORS as error:
        raise DatabaseUnavailable(reason(error)) from error
    connection.keep_alive(tcp_timeout)
    return connection


def pooler_safe_settings(settings: Settings, options: dict[str, str]) -> dict[str, str]:
    """Return the settings for a connection to DATABASE_URL: only the name, if that may be a pooler."""
    return {**APPLICATION_NAME, **({} if settings.database_listen_url is not None else options)}


def milliseconds(seconds: Seconds) -> str:
    """Return a time in milliseconds, as PostgreSQL's settings take it; at least 1."""
    return str(max(1, int(seconds * 1000)))
