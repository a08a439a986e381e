"""The engine of SQLAlchemy's sessions: what its statements raise, and how it finds a dead connection."""

import asyncio
from typing import Any
from weakref import WeakSet

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
from ..core.types import Seconds
from .connections import (
    CONNECT_TIMEOUT,
    NO_FORGOTTEN_TRANSACTIONS,
    Connection,
    behind_a_pooler,
    open_connection,
)
from .unavailable import DatabaseUnavailable, note_waiting, reason, unavailable

PING_TIMEOUT: Seconds = 5.0  # of a connection that rested; then it is replaced


class SessionPool(AsyncAdaptedQueuePool):
    """SQLAlchemy's pool, with our error if all its connections are in use."""

    def connect(self) -> PoolProxiedConnection:
        """Return a free connection, or a new one.

        Raises:
            DatabaseUnavailable: there is none within the limit.
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

    Its transactions are `READ COMMITTED` unless a session asks for another isolation. A statement may
    take `limit` seconds. What the engine connects is put in `opened`.
    """

    async def connect(*_: object, **__: object) -> Connection:
        connection = await open_connection(  # by asyncpg's reading of the URL, as the pool does
            settings.dsn,
            timeout=CONNECT_TIMEOUT,
            command_timeout=limit,
            silence=settings.database_timeout,
            server_settings=behind_a_pooler(settings, NO_FORGOTTEN_TRANSACTIONS),
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
    """Leave what SQLAlchemy asks on its first connection out of the trace that happened to open it."""
    initialize = dialect.initialize

    def initialize_untraced(connection: Connected) -> None:
        with logfire.suppress_instrumentation():
            initialize(connection)
            dialect.do_rollback(connection.connection)  # or it follows, traced

    dialect.initialize = initialize_untraced


def _ping(dbapi_connection: DBAPIConnection) -> bool:
    """Ask a connection that rested whether it lives, out of the traces; False has it replaced."""
    assert isinstance(dbapi_connection, AdaptedConnection), "what asyncpg's dialect makes"  # noqa: S101 - narrows the type
    try:
        with logfire.suppress_instrumentation():
            dbapi_connection.run_async(
                lambda driver: driver.execute("SELECT 1", timeout=PING_TIMEOUT)
            )
    except (DatabaseUnavailable, TimeoutError, asyncpg.InterfaceError):
        return False
    return True


def _classify(context: ExceptionContext) -> DatabaseUnavailable | None:
    """Return what a session raises instead of an error that means an unavailable database."""
    error = context.original_exception
    if not isinstance(error, Exception):
        return None
    closed = context.is_disconnect or isinstance(error, ConnectionError | TimeoutError)
    driver = context.connection.connection.driver_connection if context.connection else None
    if isinstance(driver, Connection) and driver.was_forgotten():
        return None
    behind = error if isinstance(error, DatabaseUnavailable) else error.__cause__ or error
    found = unavailable(behind, closed=closed)
    if found is not None and closed:
        context.is_disconnect = True
    return None if found is error else found
