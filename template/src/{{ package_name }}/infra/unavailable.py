"""When the database cannot be used: one exception, raised where our connections connect and run statements.

An error is classified by its origin. A `TimeoutError`, a `FileNotFoundError` or a lost connection to
another service is its raiser's own failure, although drivers raise the same classes.
"""

import asyncio
from collections.abc import Generator
from typing import cast

import asyncpg

from .text import without_passwords


class DatabaseUnavailable(ConnectionError):
    """The database cannot be reached or used at the moment: wait, and try again.

    Its text is the reason; its cause is what the driver raised.
    """


class StatementTooSlow(DatabaseUnavailable):
    """The server answers, and one of the service's own statements took longer than it may."""


SERVER_STATES = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.DatabaseDroppedError,
    asyncpg.IdleSessionTimeoutError,
    asyncpg.InsufficientResourcesError,  # a full disk, no memory, too many connections
    asyncpg.PostgresSystemError,  # the server's disk or another part of its host fails
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.ReadOnlySQLTransactionError,  # what managed servers become when their disk is nearly full
)
"""What a server answers when nothing is wrong with the statement."""

DATABASE_AWAY = (DatabaseUnavailable, *SERVER_STATES)
"""For `except` clauses: what a statement raises when the database is unavailable."""

# A transaction that was left idle, a limit for one statement: the same code would meet it again.
OF_THE_STATEMENT = (
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.ConfigurationLimitExceededError,
)

WAITED = "it ended a wait for the database"

LOST = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What the driver raises for a connection that is closed; `TimeoutError` is an `OSError`."""


def is_unavailable(error: BaseException) -> bool:
    """Tell whether an error comes from a database that is unavailable.

    Looks through groups, causes, and what SQLAlchemy wraps.
    """
    return any(isinstance(each, DatabaseUnavailable) for each in _and_behind(error))


def _and_behind(error: BaseException) -> Generator[BaseException]:
    """Yield an error and all that is behind it, each once: `raise error from error` makes a circle."""
    left: list[BaseException | None] = [error]
    seen: set[int] = set()
    while left:
        each = left.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        wrapped = getattr(each, "orig", None)  # by SQLAlchemy
        left += [each.__cause__, wrapped if isinstance(wrapped, BaseException) else None]
        if isinstance(each, BaseExceptionGroup):
            left += cast("BaseExceptionGroup[BaseException]", each).exceptions


def unavailable(
    error: BaseException, *, closed: bool, states: tuple[type[BaseException], ...] = SERVER_STATES
) -> DatabaseUnavailable | None:
    """Return what to raise for a driver's error on one of our connections; None if it is not that.

    `closed` is whether the connection cannot be used any more.
    """
    if isinstance(error, DatabaseUnavailable):
        return error
    if isinstance(error, ValueError) or isinstance(_origin(error), OF_THE_STATEMENT):
        return None
    if isinstance(error, states) or (closed and isinstance(error, LOST)):
        return DatabaseUnavailable(reason(error))
    return None


def note_waiting(error: asyncio.CancelledError) -> None:
    """Note on a cancellation that it ended a wait for a connection, or for a silent server."""
    error.add_note(WAITED)


def waited(error: BaseException | None) -> bool:
    """Tell whether a cancellation ended such a wait."""
    return WAITED in getattr(error, "__notes__", ())


def unreachable(error: BaseException, where: str = "") -> str:
    """Return a sentence for a person who starts something while the database is unavailable."""
    return f"The database{where} cannot be reached ({reason(error)}): start it, or correct DATABASE_URL."


def reason(error: BaseException) -> str:
    """Return in words what lies behind an error of the database."""
    # The driver's error for a closed connection names less than the one that closed it.
    behind = (isinstance(error, asyncpg.InterfaceError) and error.__context__) or error
    return without_passwords(str(behind)) or type(behind).__name__


def _origin(error: BaseException) -> BaseException:
    """Return the first error of a chain: the server's own, where the connection ended with one."""
    seen = {id(error)}
    while error.__cause__ is not None and id(error.__cause__) not in seen:
        error = error.__cause__
        seen.add(id(error))
    return error
