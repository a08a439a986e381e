"""What commands work on: the store, opened for one task, and times as people write them."""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import asyncpg
import typer

from .. import COMMAND
from ..config import Settings
from ..core.events import event_types
from ..infra.database import (
    DATABASE_AWAY,
    StatementTooSlow,
    check_database,
    open_pool,
    reason,
    unreachable,
)
from ..infra.store import EventConflict, EventStore, InvalidEvent
from ..local import somewhere_to_store
from .output import CommandFailed
from .quiet import configure

# Of the errors that say to wait, those of a server that can be reached.
FULL = (asyncpg.InsufficientResourcesError, asyncpg.ReadOnlySQLTransactionError)
OTHER_SCHEMA = (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError)
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def complete_types(incomplete: str) -> list[str]:
    """Complete the last of several types."""
    *others, last = incomplete.split(",")
    return [",".join([*others, name]) for name in event_types() if name.startswith(last)]


Types = Annotated[
    str | None,
    typer.Option(help="Types of event, with commas.", autocompletion=complete_types),
]
OneScope = Annotated[str | None, typer.Option("--scope", help="Only this scope.")]


def with_store[T](
    run: Callable[[EventStore], Coroutine[Any, Any, T]], subscriber: str = "agent"
) -> T:
    """Do something with the store of DATABASE_URL, or of the project's own database.

    Raises:
        CommandFailed: the database is away or refuses, or the store does.
    """

    async def opened(settings: Settings) -> T:
        async with _store(settings, subscriber) as store:
            return await run(store)

    configure()
    with somewhere_to_store() as settings, in_words():
        return asyncio.run(opened(settings))


@contextmanager
def in_words() -> Generator[None]:
    """Say in a sentence what goes wrong with the database.

    Raises:
        CommandFailed: it went wrong.
    """
    try:
        yield
    except (InvalidEvent, EventConflict) as error:
        raise CommandFailed(str(error)) from error
    except (*DATABASE_AWAY, asyncpg.PostgresError) as error:
        raise CommandFailed(trouble(error)) from error


def trouble(error: Exception) -> str:
    """Say in a sentence what an error of the database means."""
    if isinstance(error, OTHER_SCHEMA):
        said = reason(error)
        return f"The database is not of this version ({said}): run `{COMMAND} migrate` first."
    if isinstance(error, StatementTooSlow):
        return f"The database is busy ({error}): try again later, or raise DATABASE_TIMEOUT."
    if isinstance(error, DATABASE_AWAY) and not isinstance(error.__cause__ or error, FULL):
        return unreachable(error)
    return f"The database refused that: {reason(error)}."


@asynccontextmanager
async def _store(settings: Settings, subscriber: str) -> AsyncGenerator[EventStore]:
    await check_database(settings)
    async with open_pool(settings) as pool:
        store = EventStore(None, pool, subscriber=subscriber, settings=settings)
        try:
            yield store
        finally:
            await store.close()


def split_types(text: str | None) -> list[str] | None:
    """Read types that are separated by commas.

    Raises:
        typer.BadParameter: it names none.
    """
    if text is None:
        return None
    found = [name.strip() for name in text.split(",") if name.strip()]
    if not found:
        raise typer.BadParameter(f"--types: name at least one of {', '.join(event_types())}")
    return found


async def require_types(store: EventStore, wanted: list[str] | None) -> None:
    """Refuse a type that neither the code nor the log has; the log may have removed ones.

    Raises:
        typer.BadParameter: there is no such type.
    """
    for name in sorted(set(wanted or []) - set(event_types())):
        if not await store.log.has_type(name):
            known = ", ".join(event_types())
            raise typer.BadParameter(f"--types: there is no {name!r}; there are {known}")


def duration(text: str) -> timedelta:
    """Read 30s, 15m, 1h or 2d.

    Raises:
        typer.BadParameter: it is none of these.
    """
    found = re.fullmatch(r"(\d{1,9})([smhd])", text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is no duration; write 30s, 15m, 1h or 2d")
    return timedelta(seconds=int(found[1]) * UNITS[found[2]])


def period(
    start: str | None, end: str | None, last: str | None
) -> tuple[datetime, datetime | None]:
    """Return the times between which to look.

    Raises:
        typer.BadParameter: it does not say from when, or not in a way that can be read.
    """
    if (start is None) == (last is None):
        raise typer.BadParameter("give --start or --last, one of them")
    now = datetime.now(UTC)
    try:
        since = now - duration(last) if last else _time("--start", str(start))
    except OverflowError as error:
        raise typer.BadParameter(f"--last: {last} ago nothing was recorded; write less") from error
    until = _time("--end", end) if end else None
    if until is not None and until < since:
        raise typer.BadParameter(f"--end: {end} is before the start, {since.isoformat()}")
    return since, until


def _time(option: str, text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        message = f"{option}: {text!r} is no ISO time like 2026-01-31T12:00"
        raise typer.BadParameter(message) from error
    try:
        return time if time.tzinfo else time.astimezone()
    except (OverflowError, ValueError) as error:
        raise typer.BadParameter(
            f"{option}: {text!r} is beyond the calendar; name a zone"
        ) from error
