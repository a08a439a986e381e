"""Checks whether this code works with the schema, and names the remedy if not."""

from collections.abc import Mapping, Sequence

from alembic.script import Script
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from ..infra.database import StartupError
from .histories import APP, HISTORIES, History, revision_of, scripts_of
from .indexes import missing_in
from .revisions import ready, taken_back_in

REFUSED = "42501"  # SQLSTATE: insufficient privilege
TABLES = ("events", "deliveries", "subscriptions", "scopes", "pollers", "event_status")


class SchemaOutdated(StartupError):
    """The schema lacks revisions that this version needs."""


def check_all(connection: Connection, *, reapply: bool) -> list[str]:
    """Check the schema and its indexes; return warnings.

    Without `reapply`, a revision that was taken back may be missing.

    Raises:
        StartupError: the schema is older, or incomplete.
    """
    notes = [
        f"{each}: this version is older, which is fine during a deploy"
        for each in check(connection, {} if reapply else taken_back_in(connection))
    ]
    if notes:
        return notes
    _, waiting = to_apply(connection, APP, {})
    missing = [
        f"The index {index.name} is missing or not finished: the service works without it, only slower;"
        " run the `migrate` command"
        for index in missing_in(connection)
    ]
    return [*([waiting] if waiting else []), *missing]


def check(connection: Connection, taken_back: Mapping[str, str]) -> list[str]:
    """Check the schema; return a sentence for each history that newer code has migrated.

    Raises:
        StartupError: the schema is older, or incomplete.
    """
    newer: list[str] = []
    for history in HISTORIES:
        found = revision_of(connection, history)
        if is_newer(found, history):
            newer.append(f"The database schema ({history.folder}) is at {found}")
        elif scripts := to_apply(connection, history, taken_back)[0]:
            raise SchemaOutdated(
                f"The database schema ({history.folder}) is at {found or 'nothing'} and this version"
                f" needs {scripts[-1].revision}: run the `migrate` command first."
            )
    missing = [
        name
        for name in TABLES
        if connection.scalar(text("SELECT to_regclass(:name)"), {"name": name}) is None
    ]
    if missing:
        raise StartupError(
            f"The database schema is half migrated, {', '.join(missing)} missing: restore it from a"
            " backup, or drop the remaining tables and run the `migrate` command."
        )
    return newer


def to_apply(
    connection: Connection, history: History, taken_back: Mapping[str, str]
) -> tuple[Sequence[Script], str | None]:
    """Return the revisions to apply, and a sentence about the next one if it cannot be applied."""
    scripts, found = scripts_of(history), revision_of(connection, history)
    done = next((place for place, each in enumerate(scripts, 1) if each.revision == found), 0)
    return ready(scripts[done:], taken_back)


def is_newer(revision: str | None, history: History) -> bool:
    """Return whether a revision is unknown to this code, so that newer code must have applied it."""
    return revision is not None and revision not in {each.revision for each in scripts_of(history)}


def first_line(error: CommandError | DBAPIError) -> str:
    """Return the first line of an error, without the statement."""
    return str(error.orig if isinstance(error, DBAPIError) else error).partition("\n")[0]


def remedy(error: CommandError | DBAPIError) -> str:
    """Return the remedy for a schema that cannot be checked or upgraded."""
    if isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) == REFUSED:
        return "run the `migrate` command with the owner of the tables in DATABASE_MIGRATE_URL"
    return (
        "it was changed by hand or is half migrated; restore it from a backup, or drop its tables in"
        " development"
    )
