"""Connections that notice a silent server, and raise `DatabaseUnavailable` when the database is.

Each statement has a time limit on this side. A server that acknowledges the cancellation keeps its
connection; one that does not loses it, and the next statement opens another.
"""

import asyncio
import socket
import time
from collections.abc import Awaitable
from typing import Any, Final

import asyncpg

from ..config import Settings
from ..core.types import Seconds
from .unavailable import (
    SERVER_STATES,
    DatabaseUnavailable,
    StatementTooSlow,
    note_waiting,
    reason,
    unavailable,
)

CONNECT_TIMEOUT: Seconds = 10.0  # a server that takes longer to answer is as good as down
CANCEL_TIMEOUT: Seconds = 2.0  # for the server to acknowledge that a statement is given up
KEEPALIVE_PROBES = 3
LONG = 10  # times `DATABASE_TIMEOUT`: the limit of statements that go through many rows

NAMED = {"application_name": "agent"}
# A forgotten transaction would hold back VACUUM and everybody who follows the log.
FORGOTTEN_AFTER: Seconds = 60.0
NO_FORGOTTEN_TRANSACTIONS = {"idle_in_transaction_session_timeout": "60000"}  # ms, the same
# The store's statements are written for this, whatever the database or the role has as its default.
# `default_transaction_read_only` stays: who sets it wants that nothing is written.
READ_COMMITTED: Final = "read_committed"
AS_WRITTEN = {"default_transaction_isolation": "read committed", "lock_timeout": "0"}

REFUSED = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What opening a connection raises: no statement is at fault yet."""


class Connection(asyncpg.Connection):
    """A connection that raises `DatabaseUnavailable` for whatever means that.

    Cursors and prepared statements that you make of it raise what the driver does.
    """

    states: tuple[type[BaseException], ...] = SERVER_STATES
    own_limits_are_callers = True
    """Whether a statement that exceeds a limit of its own raises `TimeoutError`, as the driver does."""
    used_at = 0.0
    """When the last statement ended, on this process's monotonic clock."""

    def execute(self, query: str, *args: object, **options: Any) -> Any:
        """Run a statement, or several without arguments."""
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
        """Let the system close a socket whose peer is silent for about `limit`."""
        sock = self._transport.get_extra_info("socket")
        if sock is None or sock.family not in {socket.AF_INET, socket.AF_INET6}:
            return
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        pause = max(1, int(limit / KEEPALIVE_PROBES))
        options = {  # each where the system has it
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
            if self.own_limits_are_callers:
                raise
            raise StatementTooSlow(f"a statement took longer than {own_limit:g} s") from error
        except Exception as error:
            lost = self.is_closed() and not self.was_forgotten()
            found = unavailable(error, closed=lost, states=self.states)
            if found is None:
                raise
            raise found from error
        finally:
            if not self.is_closed():
                self.used_at = time.monotonic()

    def was_forgotten(self) -> bool:
        """Tell whether the server ended a transaction that its owner left idle: asyncpg does not keep why."""
        inner: Any = self
        idle = time.monotonic() - self.used_at
        return self.is_closed() and inner._top_xact is not None and idle >= FORGOTTEN_AFTER

    async def _cancel(self, *waiters: Any) -> None:
        """Ask the server to cancel a statement; end the connection if it does not acknowledge that.

        asyncpg itself waits for as long as a statement may take.
        """
        inner: Any = super()  # stubs leave this out
        ending = asyncio.get_running_loop().call_later(CANCEL_TIMEOUT, self.terminate)
        try:
            await inner._cancel(*waiters)
        finally:
            ending.cancel()

    async def _answers(self) -> bool:
        """Tell whether the server acknowledges the cancellation; if not, end the connection."""
        try:
            await super().execute("SELECT 1", timeout=CANCEL_TIMEOUT)
        except asyncpg.InFailedSQLTransactionError:
            return True
        except Exception:  # whatever it is, this connection is of no use
            self.terminate()
            return False
        return True


class OfTheService(Connection):
    """A connection for the service's own statements: one that the server cancels means no failure of ours."""

    states = (*SERVER_STATES, asyncpg.QueryCanceledError)
    own_limits_are_callers = False


class BehindPooler(OfTheService):
    """Names the isolation in each transaction: a pooler refuses it as a setting of the connection."""

    async def fetch(self, query: str, *args: object, **options: Any) -> Any:
        """Run a statement, in a transaction of its own unless there is one, and return its rows."""
        if self.is_in_transaction():
            return await super().fetch(query, *args, **options)
        async with self.transaction(isolation=READ_COMMITTED):
            return await super().fetch(query, *args, **options)


class BeforeTracing(asyncpg.Connection):
    """The methods from before `logfire.instrument_asyncpg()`, which replaces them later."""

    execute = asyncpg.Connection.execute
    fetch = asyncpg.Connection.fetch
    fetchval = asyncpg.Connection.fetchval


class Untraced(OfTheService, BeforeTracing):
    """A connection whose statements leave no spans: tracing one takes longer than running it."""


class Pool(asyncpg.Pool):
    """A pool whose connections are waited for within a limit."""

    patience: Seconds | None = None

    async def _acquire(self, limit: Seconds | None) -> Any:
        inner: Any = super()  # stubs leave this out
        try:
            return await inner._acquire(limit or self.patience)
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


async def open_connection(*args: Any, silence: Seconds, **options: Any) -> Connection:
    """Open a connection as `asyncpg.connect` does; the system closes it after about `silence`.

    Raises:
        DatabaseUnavailable: the server cannot be reached, or it refuses.
    """
    options = {"connection_class": Connection, **options}
    try:
        connection: Any = await asyncpg.connect(*args, **options)
    except DatabaseUnavailable:
        raise
    except asyncio.CancelledError as error:
        note_waiting(error)
        raise
    except REFUSED as error:
        raise DatabaseUnavailable(reason(error)) from error
    connection.keep_alive(silence)
    return connection


def behind_a_pooler(settings: Settings, wanted: dict[str, str]) -> dict[str, str]:
    """Return the settings of a connection that a pooler may stand before: it refuses what it does not know."""
    return {**NAMED, **({} if settings.database_listen_url is not None else wanted)}


def milliseconds(seconds: Seconds) -> str:
    """Write a time as PostgreSQL's settings want it."""
    return str(max(1, int(seconds * 1000)))
