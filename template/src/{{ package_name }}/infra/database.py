"""Connections: SQLAlchemy sessions for your tables, a raw asyncpg pool for the event store.

SQLAlchemy is loaded for sessions only: commands have none.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakSet

import asyncpg
from pydantic_core import to_json as to_json_bytes

from ..config import Settings
from ..core.types import Seconds
from .connections import (
    AS_WRITTEN,
    CONNECT_TIMEOUT,
    NAMED,
    NO_FORGOTTEN_TRANSACTIONS,
    BehindPooler,
    Connection,
    OfTheService,
    Pool,
    Untraced,
    behind_a_pooler,
    milliseconds,
    open_connection,
)
from .connections import LONG as LONG
from .connections import READ_COMMITTED as READ_COMMITTED
from .unavailable import DATABASE_AWAY as DATABASE_AWAY  # agents ask for these here
from .unavailable import DatabaseUnavailable, unreachable
from .unavailable import StatementTooSlow as StatementTooSlow
from .unavailable import is_unavailable as is_unavailable
from .unavailable import reason as reason
from .unavailable import waited as waited

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
    from sqlalchemy.orm import Session

    from .sessions import create_engine as create_engine

COMMIT_TIMEOUT: Seconds = 2.0  # of what is still to be committed, or asked, when the service stops
CLOSE_TIMEOUT: Seconds = 1.0  # of a polite end of a connection
MAX_QUERIES = 50_000  # of a pooled connection before it is replaced
MAX_IDLE: Seconds = 300.0  # of a pooled connection before it is closed

# What the planner knows of a queue is always out of date: it must not choose by that.
BY_INDEX = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}


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
    from sqlalchemy import event

    transaction = session.sync_session.get_transaction()

    def committed(of: Session) -> None:
        if of.get_transaction() is transaction and not of.in_nested_transaction():
            work()

    event.listen(session.sync_session, "after_commit", committed)


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncGenerator[Database]:
    """Open the engine and the pool; both are closed at the end of the block, in bounded time."""
    from sqlalchemy.ext.asyncio import async_sessionmaker

    from .sessions import create_engine

    opened: WeakSet[Connection] = WeakSet()
    engine = create_engine(
        settings,
        opened,
        # Yours may be slow: a decision has its own limit.
        limit=max(settings.database_timeout, settings.event_handler_timeout),
        pool_size=settings.database_pool_size,
        max_overflow=settings.database_pool_max_overflow,
        pool_timeout=settings.database_timeout,
    )
    # Nothing may be loaded behind the caller's back after a commit: that would be hidden I/O.
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    try:
        async with open_pool(settings) as pool:
            yield Database(engine, sessions, pool)
    finally:
        await _bounded(engine.dispose())
        for connection in opened:
            connection.terminate()


@asynccontextmanager
async def open_pool(settings: Settings) -> AsyncGenerator[asyncpg.Pool]:
    """Open the pool alone; it is closed at the end of the block, in bounded time."""
    pool = create_raw_pool(settings)
    try:
        await pool
        yield pool
    finally:
        await _bounded(pool.close())


async def _bounded(closing: Awaitable[None]) -> None:
    """Wait for a polite end, but not for a server that is silent."""
    with contextlib.suppress(TimeoutError, DatabaseUnavailable, asyncpg.InterfaceError):
        await asyncio.wait_for(closing, CLOSE_TIMEOUT)


def create_raw_pool(settings: Settings) -> asyncpg.Pool:
    """Return a pool, to be entered with `async with`, for statements that SQLAlchemy adds nothing to."""
    limit = settings.database_timeout
    pool = Pool(
        settings.dsn,
        min_size=1,
        max_size=settings.database_pool_size,
        max_queries=MAX_QUERIES,
        max_inactive_connection_lifetime=MAX_IDLE,
        loop=None,
        connect=partial(open_connection, silence=limit),
        connection_class=OfTheService if settings.database_listen_url is None else BehindPooler,
        record_class=asyncpg.Record,
        timeout=CONNECT_TIMEOUT,
        command_timeout=limit,
        server_settings=behind_a_pooler(
            settings,
            {
                **NO_FORGOTTEN_TRANSACTIONS,
                **AS_WRITTEN,
                "statement_timeout": milliseconds(LONG * limit),
            },
        ),
        reset=_nothing_to_reset,
    )
    pool.patience = limit
    return pool


async def _nothing_to_reset(connection: asyncpg.Connection) -> None:
    """Save a round trip: the store leaves no session state behind on pooled connections."""


async def connect(settings: Settings, *, flushed: bool = True) -> asyncpg.Connection:
    """Open one dedicated connection that no pooler may share: for LISTEN, locks, and the lanes.

    Statements here were written for an index and get it, by one plan for all their parameters. No
    span tells of them: each belongs to many callers, who have spans of their own, or to none. With
    `flushed=False` commits do not wait for the disk: a server that crashes may undo the last ones.

    Raises:
        DatabaseUnavailable: it cannot be opened.
    """
    return await open_connection(
        settings.listen_dsn,
        connection_class=Untraced,
        timeout=CONNECT_TIMEOUT,
        command_timeout=settings.database_timeout,
        silence=settings.database_timeout,
        server_settings={
            **NAMED,
            **NO_FORGOTTEN_TRANSACTIONS,
            **AS_WRITTEN,
            **BY_INDEX,
            "statement_timeout": milliseconds(settings.database_timeout),
            "idle_session_timeout": "0",  # it rests while nothing happens
            **({} if flushed else {"synchronous_commit": "off"}),
        },
    )


async def check_database(settings: Settings) -> None:
    """Raise `StartupError`, in one sentence, if the database cannot be used."""
    try:
        connection = await open_connection(
            settings.dsn, timeout=CONNECT_TIMEOUT, silence=settings.database_timeout
        )
    except DatabaseUnavailable as error:
        raise StartupError(_refusal(settings, error)) from error
    await _bounded(connection.close())


def _refusal(settings: Settings, error: DatabaseUnavailable) -> str:
    from sqlalchemy.engine import make_url

    url = make_url(str(settings.database_url))
    where = f"{url.host or 'localhost'}:{url.port or 5432}"
    if isinstance(error.__cause__, asyncpg.InvalidCatalogNameError):
        return f"DATABASE_URL names the database {url.database!r}, which {where} does not have: create it."
    if isinstance(error.__cause__, asyncpg.InvalidAuthorizationSpecificationError):
        return f"DATABASE_URL is refused by {where} ({error}): check its user and password."
    return unreachable(error, f" at {where}")


def to_json(value: object) -> str:
    """Write a value for a `jsonb` parameter."""
    return to_json_bytes(value).decode()


def __getattr__(name: str) -> object:
    """Return `create_engine`, which loads SQLAlchemy."""
    if name == "create_engine":
        from .sessions import create_engine

        return create_engine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
