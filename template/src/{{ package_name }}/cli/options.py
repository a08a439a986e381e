"""Options that several commands share: event types, scopes, durations and periods of time."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from ..core.events import event_types
from ..infra.store import EventStore
from ..infra.store.log import LATEST_SCAN_LIMIT, MAX_FILTER_TYPES
from .output import echo

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def complete_types(incomplete: str) -> list[str]:
    """Complete the last of several comma-separated types."""
    *others, last = incomplete.split(",")
    return [",".join([*others, name]) for name in event_types() if name.startswith(last)]


Types = Annotated[
    str | None,
    typer.Option(help="Types of events, separated by commas.", autocompletion=complete_types),
]
OneScope = Annotated[str | None, typer.Option("--scope", help="Only this scope.")]


def split_types(text: str | None) -> list[str] | None:
    """Parse comma-separated types.

    Raises:
        typer.BadParameter: there is none, or there are more than `MAX_FILTER_TYPES`.
    """
    if text is None:
        return None
    found = [name.strip() for name in text.split(",") if name.strip()]
    if not found:
        raise typer.BadParameter(f"--types: name at least one of {', '.join(event_types())}")
    if len(found) > MAX_FILTER_TYPES:
        raise typer.BadParameter(
            f"--types: it names {len(found)} types; name at most {MAX_FILTER_TYPES}"
        )
    return found


async def require_types(store: EventStore, wanted: list[str] | None) -> None:
    """Check that the code or the log has each type; the log may have types that the code lost.

    Only the newest events are scanned: if the log is longer, an unknown type is only a warning.

    Raises:
        typer.BadParameter: a type does not exist.
    """
    for name in sorted(set(wanted or []) - set(event_types())):
        found = await store.log.has_type(name)
        if found is None:
            echo(f"None of the newest {LATEST_SCAN_LIMIT:,} events is a {name!r}.", err=True)
        elif not found:
            known = ", ".join(event_types())
            raise typer.BadParameter(f"--types: {name!r} does not exist; use some of {known}")


def duration(text: str) -> timedelta:
    """Parse a duration such as 30s, 15m, 1h or 2d.

    Raises:
        typer.BadParameter: the text is not a duration.
    """
    found = re.fullmatch(r"(\d{1,9})([smhd])", text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is not a duration; write 30s, 15m, 1h or 2d")
    return timedelta(seconds=int(found[1]) * UNITS[found[2]])


def period(
    start: str | None, end: str | None, last: str | None
) -> tuple[datetime, datetime | None]:
    """Return the start and end of the period that the options name; None for an open end.

    Raises:
        typer.BadParameter: the start is missing, or a time is not valid.
    """
    if (start is None) == (last is None):
        raise typer.BadParameter("give either --start or --last")
    now = datetime.now(UTC)
    try:
        since = now - duration(last) if last else _time("--start", str(start))
    except OverflowError as error:
        raise typer.BadParameter(
            f"--last: {last} is longer than the calendar; write less"
        ) from error
    until = _time("--end", end) if end else None
    if until is not None and until < since:
        raise typer.BadParameter(f"--end: {end} is before the start, {since.isoformat()}")
    return since, until


def _time(option: str, text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        message = f"{option}: {text!r} is not an ISO time; write it like 2026-01-31T12:00"
        raise typer.BadParameter(message) from error
    try:
        return time if time.tzinfo else time.astimezone()
    except (OverflowError, ValueError) as error:
        raise typer.BadParameter(
            f"{option}: {text!r} is beyond the calendar; add a time zone"
        ) from error
