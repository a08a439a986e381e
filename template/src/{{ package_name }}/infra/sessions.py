"""Creates the SQLAlchemy engine, whose sessions raise `DatabaseUnavailable` and replace dead connections."""

import asyncio
from typing import TYPE_CHECKING, Any

import asyncpg
import logfire
from sqlalchemy import event
from sqlalchemy.engine import AdaptedConnection, Dialect, ExceptionContext
from sqlalchemy.engine import Connection as Connected
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import TimeoutError as NoneFree
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, PoolProxiedConnection

from ..config import Settings
from ..core.units import Seconds
from .connections import (
    CONNECT_TIMEOUT,
    IDLE_TRANSACTION_SETTINGS,
    Connection,
    open_connection,
    pooler_safe_settings,
)
from .unavailable import DatabaseUnavailable, as_unavailable, note_waiting, reason

if TYPE_CHECKING:
    from weakref import WeakSet

PING_TIMEOUT: Seconds = 5.0  # of an idle connection, which is then replaced


class SessionPool(AsyncAdaptedQueuePool):
    """SQLAlchemy's pool, which raises `DatabaseUnavailable` if all connections are in use."""

    def connect(self) -> PoolProxiedConnection:
        """Return a free connection, or a new one.

        Raises:
            DatabaseUnavailable: none is free within the time limit.
        """
        try:
            return super().connect()
        except NoneFree as error:
            raise DatabaseUnavailable(reason(error)) from error
        except asyncio.CancelledError as error:
            note_waiting(error)
            raise


def create_engine(
    settings: Settings,
    opened: "WeakSet[Connection] | None" = None,
    *,
    limit: Seconds | None = None,
    **options: Any,
) -> AsyncEngine:
    """Return an engine whose sessions raise `DatabaseUnavailable`.

    Its transactions are `READ COMMITTED` unless a session sets another isolation. A statement may take `limit`
    seconds. The engine adds its connections to `opened`.
    """

    async def connect(*_: object, **__: object) -> Connection:
        connection = await open_connection(  # asyncpg parses the URL, as for the pool
            settings.dsn,
            timeout=CONNECT_TIMEOUT,
            command_timeout=limit,
            tcp_timeout=settings.database_timeout,
            server_settings=pooler_safe_settings(settings, IDLE_TRANSACTION_SETTINGS),
        )
        if opened is not None:
            opened.add(connection)
        return connection

    engine = create_async_engine(
        str(settings.database_url),
        poolclass=SessionPool,
        pool_pre_ping=True,
        isolation_level="READ COMMITTED",
        connect_args={"async_creator_fn": connect},
        **options,
    )
    engine.dialect.do_ping = _ping
    _initialize_untraced(engine.dialect)
    event.listen(engine.sync_engine, "handle_error", _classify)
    return engine


def _initialize_untraced(dialect: Dialect) -> None:
    """Keep SQLAlchemy's first queries out of the trace of the request that opens the first connection."""
    initialize = dialect.initialize

    def initialize_untraced(connection: Connected) -> None:
        with logfire.suppress_instrumentation():
            initialize(connection)
            dialect.do_rollback(connection.connection)  # otherwise SQLAlchemy does it, traced

    dialect.initialize = initialize_untraced


def _ping(dbapi_connection: DBAPIConnection) -> bool:
    """Ping an idle connection, without a span; if this returns False, the pool replaces it."""
    assert isinstance(dbapi_connection, AdaptedConnection), "asyncpg's dialect adapts it"  # noqa: S101 - narrows the type
    try:
        with logfire.suppress_instrumentation():
            dbapi_connection.run_async(
                lambda driver: driver.execute("SELECT 1", timeout=PING_TIMEOUT)
            )
    except (DatabaseUnavailable, TimeoutError, asyncpg.InterfaceError):
        return False
    return True


def _classify(context: ExceptionContext) -> DatabaseUnavailable | None:
    """Return the `DatabaseUnavailable` for an error of a session; None to leave the error as it is."""
    error = context.original_exception
    if not isinstance(error, Exception):
        return None
    closed = context.is_disconnect or isinstance(error, ConnectionError | TimeoutError)
    driver = context.connection.connection.driver_connection if context.connection else None
    if isinstance(driver, Connection) and driver.was_idle_in_transaction():
        return None
    original = error if isinstance(error, DatabaseUnavailable) else error.__cause__ or error
    found = as_unavailable(original, closed=closed)
    if found is not None and closed:
        context.is_disconnect = True
    return None if found is error else found
