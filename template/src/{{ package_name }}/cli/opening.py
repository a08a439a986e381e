"""What commands work on: the store, opened for one task, and times as people write them."""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from ..config import Settings
from ..core.events import event_types
from ..infra.database import check_database, open_database
from ..infra.observability import configure_for_commands
from ..infra.store import EventStore
from ..serving import somewhere_to_store

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


def with_store[T](run: Callable[[EventStore], Coroutine[Any, Any, T]]) -> T:
    """Do something with the store of DATABASE_URL, or of the project's own database."""

    async def opened(settings: Settings) -> T:
        async with _store(settings) as store:
            return await run(store)

    configure_for_commands()
    with somewhere_to_store() as settings:
        return asyncio.run(opened(settings))


@asynccontextmanager
async def _store(settings: Settings) -> AsyncGenerator[EventStore]:
    await check_database(settings)
    async with open_database(settings) as database:
        store = EventStore(database.sessions, database.pool, settings=settings)
        try:
            yield store
        finally:
            await store.close()


def split_types(text: str | None) -> list[str] | None:
    """Read types that are separated by commas.

    Raises:
        typer.BadParameter: there is no such type.
    """
    if text is None:
        return None
    found = [name.strip() for name in text.split(",") if name.strip()]
    if unknown := sorted(set(found) - set(event_types())):
        known = ", ".join(event_types())
        raise typer.BadParameter(f"--types: there is no {unknown[0]!r}; there are {known}")
    return found


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
    return time if time.tzinfo else time.astimezone()
