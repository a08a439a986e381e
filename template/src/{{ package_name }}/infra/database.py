"""Opens the database: SQLAlchemy sessions for your tables, an asyncpg pool for the event store.

SQLAlchemy is imported with the first session, which commands and agents without tables never open.
"""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import asynccontextmanager
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Protocol, cast
from weakref import WeakSet

import asyncpg
from pydantic_core import to_json as to_json_bytes

from .connections import (
    APPLICATION_NAME,
    CONNECT_TIMEOUT,
    IDLE_TRANSACTION_SETTINGS,
    STATEMENT_SETTINGS,
    Connection,
    Pool,
    PoolerConnection,
    ServiceConnection,
    UntracedConnection,
    milliseconds,
    open_connection,
    pooler_safe_settings,
)
from .connections import LONG_STATEMENT_FACTOR as LONG_STATEMENT_FACTOR
from .connections import READ_COMMITTED as READ_COMMITTED
from .deprecated import warn_deprecated
from .process.gc_tuning import paused_gc
from .unavailable import DATABASE_UNAVAILABLE as DATABASE_UNAVAILABLE  # agents import it from here
from .unavailable import DatabaseUnavailable, unreachable
from .unavailable import ReadTooSlow as ReadTooSlow
from .unavailable import StatementTooSlow as StatementTooSlow
from .unavailable import is_unavailable as is_unavailable
from .unavailable import reason as reason
from .unavailable import was_database_wait as was_database_wait

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
    from sqlalchemy.orm import Session

    from ..config import Settings
    from ..core.units import Seconds
    from .sessions import create_engine as create_engine

    DATABASE_AWAY = DATABASE_UNAVAILABLE

COMMIT_TIMEOUT: Seconds = 2.0  # of the last commits and statements when the service stops
CLOSE_TIMEOUT: Seconds = 1.0  # of closing a connection; then it is terminated
MAX_QUERIES = 50_000  # of a pooled connection before it is replaced
MAX_IDLE: Seconds = 300.0  # of a pooled connection before it is closed

# The statistics of a queue are always out of date, so the planner must use the indexes and not choose by them.
BY_INDEX = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}


class StartupError(Exception):
    """The service cannot start. The message is one sentence with the remedy."""


class LoginRefused(StartupError):
    """The server refuses the user of a URL: its password is wrong, or the user does not exist."""


class Row(Protocol):
    """A row, with its columns by name."""

    def __getitem__(self, key: str, /) -> Any: ...  # the type depends on the statement


class Fetch(Protocol):
    """Runs one statement with `$1`-style parameters and returns its rows."""

    async def __call__(self, sql: str, /, *args: object) -> Sequence[Row]: ...


class Database:
    """The connection pool and the session factory of one service."""

    def __init__(self, pool: asyncpg.Pool, make_engine: Callable[[], AsyncEngine]) -> None:
        self.pool = pool
        self.sessions = cast("async_sessionmaker[AsyncSession]", LazySessionmaker(self))
        """The session factory, used as an `async_sessionmaker`."""
        self._make_engine = make_engine

    @cached_property
    def engine(self) -> AsyncEngine:
        """The engine of the sessions, created on first use."""
        with paused_gc():
            return self._make_engine()

    @property
    def used_engine(self) -> AsyncEngine | None:
        """The engine; None if no session was opened yet."""
        return vars(self).get("engine")


class LazySessionmaker:
    """Creates an `async_sessionmaker` on first use, since importing SQLAlchemy takes a fifth of a start."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __call__(self, **options: Any) -> AsyncSession:
        """Return a new session, for `async with`."""
        return self._made(**options)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the `async_sessionmaker`, such as `begin`."""
        return getattr(self._made, name)

    @cached_property
    def _made(self) -> async_sessionmaker[AsyncSession]:
        from sqlalchemy.ext.asyncio import async_sessionmaker

        # Reading an attribute after a commit must not query the database.
        return async_sessionmaker(self._database.engine, expire_on_commit=False)


def fetch_in(session: AsyncSession) -> Fetch:
    """Return a `Fetch` that runs statements in the session's transaction."""

    async def fetch(sql: str, /, *args: object) -> Sequence[Row]:
        connection = await session.connection()
        result = await connection.exec_driver_sql(sql, args)
        return result.mappings().all() if result.returns_rows else []

    return fetch


def after_commit(session: AsyncSession, work: Callable[[], None]) -> None:
    """Call `work` after the session's current transaction commits, and not after a rollback."""
    from sqlalchemy import event

    transaction = session.sync_session.get_transaction()

    def committed(of: Session) -> None:
        if of.get_transaction() is transaction and not of.in_nested_transaction():
            work()

    event.listen(session.sync_session, "after_commit", committed)


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncGenerator[Database]:
    """Open the pool, and close it and the engine at the end of the block, in bounded time."""
    opened: WeakSet[Connection] = WeakSet()
    database: Database | None = None
    try:
        async with open_pool(settings) as pool:
            database = Database(pool, lambda: _engine_of_sessions(settings, opened))
            yield database
    finally:
        if database and (engine := database.used_engine):
            await _close_bounded(engine.dispose())
        for connection in opened:
            connection.terminate()


def _engine_of_sessions(settings: Settings, opened: WeakSet[Connection]) -> AsyncEngine:
    from .sessions import create_engine

    return create_engine(
        settings,
        opened,
        # Your statements may be slow: a decision has its own time limit.
        limit=max(settings.database_timeout, settings.event_handler_timeout),
        pool_size=settings.database_pool_size,
        max_overflow=settings.database_pool_max_overflow,
        pool_timeout=settings.database_timeout,
    )


@asynccontextmanager
async def open_pool(settings: Settings) -> AsyncGenerator[asyncpg.Pool]:
    """Open the pool, and close it at the end of the block, in bounded time."""
    pool = create_raw_pool(settings)
    try:
        await pool
        yield pool
    finally:
        await _close_bounded(pool.close())


async def _close_bounded(closing: Awaitable[None]) -> None:
    """Wait for a connection or pool to close, at most `CLOSE_TIMEOUT`."""
    with contextlib.suppress(TimeoutError, DatabaseUnavailable, asyncpg.InterfaceError):
        await asyncio.wait_for(closing, CLOSE_TIMEOUT)


def create_raw_pool(settings: Settings) -> asyncpg.Pool:
    """Return an asyncpg pool for the store's statements, for `async with`."""
    limit = settings.database_timeout
    pool = Pool(
        settings.dsn,
        min_size=1,
        max_size=settings.database_pool_size,
        max_queries=MAX_QUERIES,
        max_inactive_connection_lifetime=MAX_IDLE,
        loop=None,
        connect=partial(open_connection, tcp_timeout=limit),
        connection_class=ServiceConnection
        if settings.database_listen_url is None
        else PoolerConnection,
        record_class=asyncpg.Record,
        timeout=CONNECT_TIMEOUT,
        command_timeout=limit,
        server_settings=pooler_safe_settings(
            settings,
            {
                **IDLE_TRANSACTION_SETTINGS,
                **STATEMENT_SETTINGS,
                "statement_timeout": milliseconds(LONG_STATEMENT_FACTOR * limit),
            },
        ),
        reset=_nothing_to_reset,
    )
    pool.acquire_timeout = limit
    return pool


async def _nothing_to_reset(connection: asyncpg.Connection) -> None:
    """Skip the reset, which takes a round trip: the store leaves no session state on pooled connections."""


async def connect(
    settings: Settings,
    *,
    synchronous_commit: bool = True,
    name: str = APPLICATION_NAME["application_name"],
) -> asyncpg.Connection:
    """Open a dedicated connection past any pooler: for LISTEN, locks and the store.

    Its statements always use indexes, by one plan for all parameters. They have no spans, since each serves many
    callers with spans of their own, or none. With `synchronous_commit=False`, commits do not wait for the disk, so a
    server that crashes may lose the last ones. `name` is its `application_name` in `pg_stat_activity`.

    Raises:
        DatabaseUnavailable: the connection cannot be opened.
    """
    return await open_connection(
        settings.listen_dsn,
        connection_class=UntracedConnection,
        timeout=CONNECT_TIMEOUT,
        command_timeout=settings.database_timeout,
        tcp_timeout=settings.database_timeout,
        server_settings={
            "application_name": name,
            **IDLE_TRANSACTION_SETTINGS,
            **STATEMENT_SETTINGS,
            **BY_INDEX,
            "statement_timeout": milliseconds(settings.database_timeout),
            "idle_session_timeout": "0",  # it may be idle for long
            **({} if synchronous_commit else {"synchronous_commit": "off"}),
        },
    )


async def check_database(settings: Settings) -> None:
    """Connect to the database once.

    Raises:
        StartupError: the database cannot be reached, does not exist, or refuses the login.
    """
    try:
        connection = await open_connection(
            settings.dsn, timeout=CONNECT_TIMEOUT, tcp_timeout=settings.database_timeout
        )
    except DatabaseUnavailable as error:
        raise _refusal(settings, error) from error
    await _close_bounded(connection.close())


def _refusal(settings: Settings, error: DatabaseUnavailable) -> StartupError:
    from sqlalchemy.engine import make_url

    url = make_url(str(settings.database_url))
    where = f"{url.host or 'localhost'}:{url.port or 5432}"
    of_owner = settings.database_url == settings.database_migrate_url
    setting = "DATABASE_MIGRATE_URL" if of_owner else "DATABASE_URL"
    if isinstance(error.__cause__, asyncpg.InvalidCatalogNameError):
        return StartupError(
            f"{setting} names the database {url.database!r}, which {where} does not have: create it."
        )
    if isinstance(error.__cause__, asyncpg.InvalidAuthorizationSpecificationError):
        return LoginRefused(
            f"{setting} is refused by {where} ({error}): check its user and password."
        )
    return StartupError(unreachable(error, f" at {where}", setting))


def to_json(value: object) -> str:
    """Return a value as JSON text, for a `jsonb` parameter."""
    return to_json_bytes(value).decode()


def __getattr__(name: str) -> object:
    """Return `create_engine`, whose import loads SQLAlchemy, or the value of a deprecated name."""
    if name == "create_engine":
        from .sessions import create_engine

        return create_engine
    if name == "DATABASE_AWAY":
        warn_deprecated("DATABASE_AWAY", "DATABASE_UNAVAILABLE")
        return DATABASE_UNAVAILABLE
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
