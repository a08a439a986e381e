"""Open the store for one command, and describe database errors to the person who runs it."""

import asyncio
import getpass
import os
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import asyncpg

from .. import COMMAND
from ..config import Settings
from ..development_database import ensure_database
from ..infra.database import (
    DATABASE_UNAVAILABLE,
    ReadTooSlow,
    StatementTooSlow,
    check_database,
    open_pool,
    reason,
    unreachable,
)
from ..infra.store import EventConflict, EventStore, InvalidEvent
from .lazy_logfire import configure
from .output import CommandFailed

SERVER_REFUSALS = (asyncpg.InsufficientResourcesError, asyncpg.ReadOnlySQLTransactionError)
"""Errors of `DATABASE_UNAVAILABLE` that a reachable server raises."""
SCHEMA_MISMATCH = (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError)


def with_store[T](
    run: Callable[[EventStore], Coroutine[Any, Any, T]], subscriber: str = "agent"
) -> T:
    """Run a coroutine with the store of DATABASE_URL, or of the project's own database.

    Raises:
        CommandFailed: the database is unavailable, or it or the store rejected the operation.
    """

    async def opened(settings: Settings) -> T:
        async with _store(settings, subscriber) as store:
            return await run(store)

    configure()
    with ensure_database() as settings, translate_errors():
        return asyncio.run(opened(settings))


@contextmanager
def translate_errors() -> Generator[None]:
    """Translate errors of the database and the store to sentences.

    Raises:
        CommandFailed: one was raised.
    """
    try:
        yield
    except (InvalidEvent, EventConflict) as error:
        raise CommandFailed(str(error)) from error
    except (*DATABASE_UNAVAILABLE, asyncpg.PostgresError) as error:
        raise CommandFailed(describe(error)) from error


def describe(error: Exception) -> str:
    """Return a sentence for an error of the database, with its remedy."""
    if isinstance(error, SCHEMA_MISMATCH):
        return f"The schema is not the one of this version ({reason(error)}): run `{COMMAND} migrate` first."
    if isinstance(error, ReadTooSlow):
        return f"{error}."
    if isinstance(error, StatementTooSlow):
        return f"The database is busy ({error}): try again later, or raise DATABASE_TIMEOUT."
    if isinstance(error, DATABASE_UNAVAILABLE) and not isinstance(
        error.__cause__ or error, SERVER_REFUSALS
    ):
        return unreachable(error)
    return f"The database rejected the operation: {reason(error)}."


@asynccontextmanager
async def _store(settings: Settings, subscriber: str) -> AsyncGenerator[EventStore]:
    await check_database(settings)
    async with open_pool(settings) as pool:
        store = EventStore(None, pool, subscriber=subscriber, settings=settings)
        try:
            yield store
        finally:
            await store.close()


def operator() -> str:
    """Return the user who runs this command, for the record of operator actions: `cli:ann`."""
    if sys.platform == "win32":
        return f"cli:{getpass.getuser()}"
    import pwd

    try:
        return f"cli:{pwd.getpwuid(os.getuid()).pw_name}"
    except KeyError:  # a container's user may have no name
        return f"cli:{os.getuid()}"
