"""Classifies errors of the database: our connections raise `DatabaseUnavailable` if it is unavailable.

An error is classified by its origin. A `TimeoutError`, a `FileNotFoundError` or a lost connection to another service
is a failure of the code that raised it, although drivers raise the same classes.
"""

import asyncio
from collections.abc import Generator
from typing import cast

import asyncpg

from .text import without_passwords


class DatabaseUnavailable(ConnectionError):
    """The database is unavailable: wait, and try again.

    The message is the reason, and `__cause__` is the driver's error.
    """


class StatementTooSlow(DatabaseUnavailable):
    """The server answers, but one of the service's own statements exceeded its time limit."""


class ReadTooSlow(StatementTooSlow):
    """A read exceeded its time limit. The message is a sentence with the remedy."""


SERVER_STATES = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.DatabaseDroppedError,
    asyncpg.IdleSessionTimeoutError,
    asyncpg.InsufficientResourcesError,  # a full disk, no memory, too many connections
    asyncpg.PostgresSystemError,  # a failure of the server's disk or host
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.ReadOnlySQLTransactionError,  # managed servers become read-only when their disk is nearly full
)
"""The server's errors that have their cause outside of the statement."""

DATABASE_UNAVAILABLE = (DatabaseUnavailable, *SERVER_STATES)
"""For `except` clauses: the errors of statements while the database is unavailable."""

# An idle transaction, or a limit for one statement: the same code would fail again.
STATEMENT_STATES = (
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.ConfigurationLimitExceededError,
)

WAITED = "it ended a wait for the database"

CLOSED_ERRORS = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""The driver's errors of a closed connection; `TimeoutError` is an `OSError`."""


def is_unavailable(error: BaseException) -> bool:
    """Return whether an error comes from an unavailable database.

    It searches exception groups, causes, and errors that SQLAlchemy wraps.
    """
    return any(isinstance(each, DatabaseUnavailable) for each in _error_chain(error))


def _error_chain(error: BaseException) -> Generator[BaseException]:
    """Yield an error and the errors that caused it, each once, since `raise error from error` makes a cycle."""
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


def as_unavailable(
    error: BaseException, *, closed: bool, states: tuple[type[BaseException], ...] = SERVER_STATES
) -> DatabaseUnavailable | None:
    """Return the `DatabaseUnavailable` for a driver's error on one of our connections, or None.

    `closed` is whether the connection is lost.
    """
    if isinstance(error, DatabaseUnavailable):
        return error
    if isinstance(error, ValueError) or isinstance(_origin(error), STATEMENT_STATES):
        return None
    if isinstance(error, states) or (closed and isinstance(error, CLOSED_ERRORS)):
        return DatabaseUnavailable(reason(error))
    return None


def note_waiting(error: asyncio.CancelledError) -> None:
    """Mark a cancellation that ended a wait for a connection or for a silent server."""
    error.add_note(WAITED)


def was_database_wait(error: BaseException | None) -> bool:
    """Return whether a cancellation has the mark of `note_waiting`."""
    return WAITED in getattr(error, "__notes__", ())


def unreachable(error: BaseException, where: str = "", setting: str = "DATABASE_URL") -> str:
    """Return a sentence, with the remedy, that the database cannot be reached."""
    return (
        f"The database{where} cannot be reached ({reason(error)}): start it, or correct {setting}."
    )


def reason(error: BaseException) -> str:
    """Return the reason of a database error, without passwords."""
    if isinstance(error, asyncpg.InternalClientError):  # its text is about the driver's protocol
        return "the connection was closed"
    # The error that closed a connection says more than the driver's error of using it afterwards.
    original = (isinstance(error, asyncpg.InterfaceError) and error.__context__) or error
    return without_passwords(str(original)) or type(original).__name__


def _origin(error: BaseException) -> BaseException:
    """Return the first error of a chain of causes: the server's, if it closed the connection with one."""
    seen = {id(error)}
    while error.__cause__ is not None and id(error.__cause__) not in seen:
        error = error.__cause__
        seen.add(id(error))
    return error
