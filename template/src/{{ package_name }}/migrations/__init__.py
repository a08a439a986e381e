"""Bringing the database to the schema that this code expects.

There are two histories, each with a version table of its own: `store`, which arrives with the
event store and its updates, and `app`, which is yours. So neither ever waits for the other's head.
Indexes of large tables are built after both.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import logfire
from alembic import command
from alembic.script import Script
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from ..config import Settings
from ..core.types import Seconds
from ..infra.database import StartupError, create_engine
from ..infra.text import as_template
from .histories import APP, HISTORIES, STORE, History, config_of, revision_of, scripts_of
from .indexes import IndexNotBuilt, Say, StoreIndex, build, missing_in
from .revisions import Revision, create_revision, newest, ready, take_back, taken_back_in

__all__ = [
    "IndexNotBuilt",
    "Revision",
    "Say",
    "check_schema",
    "create_revision",
    "downgrade",
    "log",
    "migrate",
    "migrate_now",
    "newest_revision",
    "take_revision_back",
    "warn",
]

LOCK = 5_219_203_774_018_266_113  # any number, as long as all workers of the service use the same

# A dump has the numbers of another server's transactions. Those that this one has yet to reach would
# come to readers of the log as new.
RENUMBER = """
UPDATE events SET tx = pg_current_xact_id() WHERE tx >= pg_snapshot_xmax(pg_current_snapshot())
"""
# An administrator's limit for statements is not meant for what goes through whole tables.
AT_LEISURE = "SET LOCAL statement_timeout = 0"
TABLES = ("events", "deliveries", "subscriptions", "scopes", "event_status")


class Upgraded(NamedTuple):
    """What became of the schema."""

    applied: list[str]
    notes: list[str]
    missing: list[StoreIndex]


def log(sentence: str) -> None:
    """Log how far something has come."""
    logfire.info(as_template(sentence))


def warn(sentence: str) -> None:
    """Log what somebody should know of the schema."""
    logfire.warn(as_template(sentence))


async def migrate(
    settings: Settings,
    *,
    again: bool = True,
    patience: Seconds | None = None,
    say: Say = log,
    note: Say = warn,
) -> list[str]:
    """Upgrade the schema and return what was applied, in order; all of it or, on an error, nothing.

    Several processes may call this at once: one works, the others wait and find nothing to do. A
    schema that newer code made stays as it is. A log that was restored from a dump of another server
    is made to fit this one. Missing indexes are built afterwards, and `say` gets how far that is;
    `note` gets which of your revisions wait, and why. Without `again`, one that was taken back waits
    until its file changes. With `patience`, no index may take longer.

    Raises:
        StartupError: the schema is in a state that no migration leads on from.
        IndexNotBuilt: only an index is missing.
    """
    try:
        upgraded = await _in_a_transaction(settings, lambda it: _upgrade(it, again=again))
    except (CommandError, DBAPIError) as error:
        raise StartupError(
            f"The database schema cannot be upgraded ({_first_line(error)}): it was changed by hand or is"
            " half migrated; restore it from a backup, or drop its tables in development."
        ) from error
    for sentence in upgraded.notes:
        note(sentence)
    with logfire.suppress_instrumentation():
        await build(settings, upgraded.missing, say, patience)
    return upgraded.applied


async def check_schema(settings: Settings, *, note: Say = warn) -> None:
    """Raise `StartupError` unless the schema is the one that this code expects, or a newer one.

    Newer, because a deploy migrates first: old processes that restart meanwhile, and a version that is
    rolled back to, find what they need as long as migrations expand before they contract.
    """
    for sentence in await _in_a_transaction(settings, _check_all):
        note(sentence)


async def newest_revision(settings: Settings) -> Revision:
    """Return the newest of your migrations that the database has.

    Raises:
        StartupError: there is none, or it cannot be taken back.
    """
    return await _in_a_transaction(settings, newest)


async def take_revision_back(settings: Settings, revision: Revision) -> None:
    """Undo the newest of your migrations, all of it or, on an error, nothing.

    Development does not apply it by itself again until its file has changed.

    Raises:
        StartupError: it cannot be undone, or is not the newest any more.
    """

    def work(connection: Connection) -> None:
        _lock(connection)
        take_back(connection, revision)

    try:
        await _in_a_transaction(settings, work)
    except (CommandError, DBAPIError) as error:
        raise StartupError(
            f"The revision {revision.id} cannot be taken back ({_first_line(error)}): nothing was"
            f" changed; correct its downgrade() in {revision.path}."
        ) from error


async def downgrade(settings: Settings) -> None:
    """Take the store's schema back to nothing, events included."""
    await _in_a_transaction(settings, _downgrade)


async def _in_a_transaction[T](settings: Settings, work: Callable[[Connection], T]) -> T:
    engine = create_engine(settings)
    try:
        with logfire.suppress_instrumentation():  # its many questions to the database are not news
            async with engine.begin() as connection:
                await connection.execute(text(AT_LEISURE))
                return await connection.run_sync(work)
    finally:
        await engine.dispose()


def _first_line(error: CommandError | DBAPIError) -> str:
    return str(error.orig if isinstance(error, DBAPIError) else error).partition("\n")[0]


def _lock(connection: Connection) -> None:
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})


def _downgrade(connection: Connection) -> None:
    command.downgrade(config_of(STORE, connection), "base")


def _upgrade(connection: Connection, *, again: bool) -> Upgraded:
    _lock(connection)
    applied: list[str] = []
    notes: list[str] = []
    for history in HISTORIES:
        before = revision_of(connection, history)
        if _is_newer(before, history):
            continue
        taken_back = {} if again or history is not APP else taken_back_in(connection)
        scripts, waiting = _to_apply(connection, history, taken_back)
        notes += [waiting] if waiting else []
        if scripts:
            command.upgrade(config_of(history, connection), scripts[-1].revision)
            after = revision_of(connection, history)
            applied.append(f"{history.folder}: {before or 'nothing'} -> {after}")
    newer = _check(connection, {} if again else taken_back_in(connection))
    if not newer and (count := connection.execute(text(RENUMBER)).rowcount):
        applied.append(f"store: {count} events of another server's dump")
    return Upgraded(applied, notes, [] if newer else missing_in(connection))


def _check_all(connection: Connection) -> list[str]:
    """Refuse what this code cannot work with; return what somebody should know of the rest."""
    notes = [
        f"{each}: this version is older, which is well during a deploy"
        for each in _check(connection)
    ]
    if notes:
        return notes
    _, waiting = _to_apply(connection, APP, {})
    missing = [
        f"The index {index.name} is missing or not finished: the service works without it, only slower;"
        " run the `migrate` command"
        for index in missing_in(connection)
    ]
    return [*([waiting] if waiting else []), *missing]


def _check(connection: Connection, taken_back: Mapping[str, str] | None = None) -> list[str]:
    """Refuse what this code cannot work with; return what newer code made of it."""
    newer: list[str] = []
    for history in HISTORIES:
        found = revision_of(connection, history)
        if _is_newer(found, history):
            newer.append(f"The database schema ({history.folder}) is at {found}")
        elif scripts := _to_apply(connection, history, taken_back or {})[0]:
            raise StartupError(
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


def _to_apply(
    connection: Connection, history: History, taken_back: Mapping[str, str]
) -> tuple[Sequence[Script], str | None]:
    """Return the revisions that the database lacks and may get, and why the next one has to wait."""
    scripts, found = scripts_of(history), revision_of(connection, history)
    done = next((place for place, each in enumerate(scripts, 1) if each.revision == found), 0)
    return ready(scripts[done:], taken_back)


def _is_newer(revision: str | None, history: History) -> bool:
    """Tell whether only newer code can have made a schema: this code knows no such revision."""
    return revision is not None and revision not in {each.revision for each in scripts_of(history)}


def migrate_now(settings: Settings, say: Say) -> list[str]:
    """Upgrade the schema from code that is not async; `say` gets everything that is not an error."""
    return asyncio.run(migrate(settings, say=say, note=say))
