"""Connections: SQLAlchemy sessions for your tables, a raw asyncpg pool for the event store."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import asyncpg
import logfire
from pydantic_core import to_json as to_json_bytes
from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session

from ..config import Settings
from ..core.types import Seconds

CONNECT_TIMEOUT: Seconds = 10.0  # a server that takes longer to answer is as good as down

NAMED = {"application_name": "agent"}
# A forgotten transaction would hold back VACUUM and everybody who follows the log.
NO_FORGOTTEN_TRANSACTIONS = {"idle_in_transaction_session_timeout": "60000"}  # ms

# What the planner knows of a queue is always out of date: it must not choose by that.
BY_INDEX = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}

DATABASE_AWAY = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.InsufficientResourcesError,  # a full disk, or too many connections
    asyncpg.ReadOnlySQLTransactionError,  # what managed servers become when their disk is nearly full
)
"""What a statement raises when the server cannot be reached or used: wait, and try again."""


class Untraced(asyncpg.Connection):
    """A connection whose statements leave no spans: tracing one takes longer than running it.

    Its methods are those from before `logfire.instrument_asyncpg()`, which replaces them later.
    """

    execute = asyncpg.Connection.execute
    fetch = asyncpg.Connection.fetch
    fetchval = asyncpg.Connection.fetchval


class StartupError(Exception):
    """The service cannot start; the message is one sentence for whoever starts it."""


class Row(Protocol):
    """A row whose columns are read by name."""

    def __getitem__(self, key: str, /) -> Any: ...  # a column's type is the statement's business


class Fetch(Protocol):
    """Runs one statement with `$1`-style parameters and returns its rows."""

    async def __call__(self, sql: str, /, *args: object) -> Sequence[Row]: ...


@dataclass(frozen=True)
class Database:
    """One service's ways into its database."""

    engine: AsyncEngine
    sessions: async_sessionmaker[AsyncSession]
    pool: asyncpg.Pool


def fetch_in(session: AsyncSession) -> Fetch:
    """Run the event store's statements inside a caller's transaction."""

    async def fetch(sql: str, /, *args: object) -> Sequence[Row]:
        connection = await session.connection()
        result = await connection.exec_driver_sql(sql, args)
        return result.mappings().all() if result.returns_rows else []

    return fetch


def after_commit(session: AsyncSession, work: Callable[[], None]) -> None:
    """Do something once the session's present transaction has committed; a rollback forgets it."""
    transaction = session.sync_session.get_transaction()

    def committed(of: Session) -> None:
        if of.get_transaction() is transaction and not of.in_nested_transaction():
            work()

    event.listen(session.sync_session, "after_commit", committed)


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncGenerator[Database]:
    """Open the engine and the pool; both are closed at the end of the block."""
    engine = create_async_engine(
        str(settings.database_url),
        pool_pre_ping=True,
        pool_size=settings.database_pool_size,
        max_overflow=settings.database_pool_max_overflow,
        connect_args={"timeout": CONNECT_TIMEOUT, "server_settings": _pooled(settings)},
    )
    _ping_quietly(engine)
    # Nothing may be loaded behind the caller's back after a commit: that would be hidden I/O.
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    try:
        async with create_raw_pool(settings) as pool:
            yield Database(engine, sessions, pool)
    finally:
        await engine.dispose()


def _ping_quietly(engine: AsyncEngine) -> None:
    """Keep what `pool_pre_ping` asks out of the traces: three statements before each transaction."""
    ping = engine.dialect.do_ping

    def ping_untraced(dbapi_connection: DBAPIConnection) -> bool:
        with logfire.suppress_instrumentation():
            return ping(dbapi_connection)

    engine.dialect.do_ping = ping_untraced


def create_raw_pool(settings: Settings) -> asyncpg.Pool:
    """Return a pool, to be entered with `async with`, for statements that SQLAlchemy adds nothing to."""
    return asyncpg.create_pool(
        settings.dsn,
        min_size=1,
        max_size=settings.database_pool_size,
        timeout=CONNECT_TIMEOUT,
        server_settings=_pooled(settings),
        reset=_nothing_to_reset,
    )


async def _nothing_to_reset(connection: asyncpg.Connection) -> None:
    """Save a round trip: the store leaves no session state behind on pooled connections."""


async def connect(settings: Settings, *, flushed: bool = True) -> asyncpg.Connection:
    """Open one dedicated connection that no pooler may share: for LISTEN, locks, and the lanes.

    Statements here were written for an index and get it, by one plan for all their parameters. No
    span tells of them: each belongs to many callers, who have spans of their own, or to none. With
    `flushed=False` commits do not wait for the disk: a server that crashes may undo the last ones.
    """
    return await asyncpg.connect(
        settings.listen_dsn,
        connection_class=Untraced,
        timeout=CONNECT_TIMEOUT,
        server_settings={
            **NAMED,
            **NO_FORGOTTEN_TRANSACTIONS,
            **BY_INDEX,
            **({} if flushed else {"synchronous_commit": "off"}),
        },
    )


async def check_database(settings: Settings) -> None:
    """Raise `StartupError`, in one sentence, if the database cannot be used."""
    url = make_url(str(settings.database_url))
    where = f"{url.host or 'localhost'}:{url.port or 5432}"
    try:
        connection = await asyncpg.connect(settings.dsn, timeout=CONNECT_TIMEOUT)
    except asyncpg.InvalidCatalogNameError as error:
        raise StartupError(
            f"DATABASE_URL names the database {url.database!r}, which {where} does not have: create it."
        ) from error
    except asyncpg.InvalidAuthorizationSpecificationError as error:
        raise StartupError(
            f"DATABASE_URL is refused by {where} ({error}): check its user and password."
        ) from error
    except (*DATABASE_AWAY, asyncpg.PostgresError) as error:
        raise StartupError(unreachable(error, f" at {where}")) from error
    await connection.close()


def unreachable(error: BaseException, where: str = "") -> str:
    """Say in a sentence, to whoever starts something, that the database is away."""
    return f"The database{where} cannot be reached ({reason(error)}): start it, or correct DATABASE_URL."


def reason(error: BaseException) -> str:
    """Say what lies behind an error of the database."""
    # What the driver says of a connection that is gone is less than why it is.
    behind = (isinstance(error, asyncpg.InterfaceError) and error.__context__) or error
    return str(behind) or type(behind).__name__


def to_json(value: object) -> str:
    """Write a value for a `jsonb` parameter."""
    return to_json_bytes(value).decode()


def _pooled(settings: Settings) -> dict[str, str]:
    """Return what connections ask for that a pooler may stand before: it refuses what it does not know."""
    behind_pooler = settings.database_listen_url is not None
    return NAMED if behind_pooler else {**NAMED, **NO_FORGOTTEN_TRANSACTIONS}
