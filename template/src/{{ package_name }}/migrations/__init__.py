"""Bringing the database to the schema that this code expects.

There are two histories, each with a version table of its own: `store`, which arrives with the
event store and its updates, and `app`, which is yours. So neither ever waits for the other's head.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import logfire
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from ..config import Settings
from ..infra.database import StartupError, create_engine

HERE = Path(__file__).parent
LOCK = 5_219_203_774_018_266_113  # any number, as long as all workers of the service use the same

# A dump has the numbers of another server's transactions. Those that this one has yet to reach would
# come to readers of the log as new.
RENUMBER = """
UPDATE events SET tx = pg_current_xact_id() WHERE tx >= pg_snapshot_xmax(pg_current_snapshot())
"""
# An administrator's limit for statements is not meant for what goes through whole tables.
AT_LEISURE = "SET LOCAL statement_timeout = 0"
TABLES = ("events", "deliveries", "subscriptions", "scopes", "event_status")


class History(NamedTuple):
    """A line of migrations."""

    folder: str
    version_table: str


HISTORIES = (History("store", "store_version"), History("app", "app_version"))


async def migrate(settings: Settings) -> list[str]:
    """Upgrade the schema and return what was applied, in order; all of it or, on an error, nothing.

    Several processes may call this at once: one works, the others wait and find nothing to do. A
    schema that newer code made stays as it is. A log that was restored from a dump of another server
    is made to fit this one.

    Raises:
        StartupError: the schema is in a state that no migration leads on from.
    """
    try:
        return await _in_a_transaction(settings, _upgrade)
    except (CommandError, DBAPIError) as error:
        reason = str(error.orig if isinstance(error, DBAPIError) else error).partition("\n")[0]
        raise StartupError(
            f"The database schema cannot be upgraded ({reason}): it was changed by hand or is half"
            " migrated; restore it from a backup, or drop its tables in development."
        ) from error


async def check_schema(settings: Settings) -> None:
    """Raise `StartupError` unless the schema is the one that this code expects, or a newer one.

    Newer, because a deploy migrates first: old processes that restart meanwhile, and a version that is
    rolled back to, find what they need as long as migrations expand before they contract.
    """
    for newer in await _in_a_transaction(settings, _check):
        logfire.warn("{schema}: this version is older, which is well during a deploy", schema=newer)


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


def _downgrade(connection: Connection) -> None:
    command.downgrade(_config(HISTORIES[0], connection), "base")


def _upgrade(connection: Connection) -> list[str]:
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
    applied: list[str] = []
    for history in HISTORIES:
        before = _revision(connection, history)
        if _is_newer(before, history):
            continue
        command.upgrade(_config(history, connection), "head")
        after = _revision(connection, history)
        if after != before and after is not None:
            applied.append(f"{history.folder}: {before or 'nothing'} -> {after}")
    if not _check(connection) and (count := connection.execute(text(RENUMBER)).rowcount):
        applied.append(f"store: {count} events of another server's dump")
    return applied


def _check(connection: Connection) -> list[str]:
    """Refuse what this code cannot work with; return what newer code made of it."""
    newer: list[str] = []
    for history in HISTORIES:
        expected = ScriptDirectory.from_config(_config(history)).get_current_head()
        found = _revision(connection, history)
        if _is_newer(found, history):
            newer.append(f"The database schema ({history.folder}) is at {found}")
        elif found != expected:
            raise StartupError(
                f"The database schema ({history.folder}) is at {found or 'nothing'} and this version"
                f" needs {expected}: run the `migrate` command first."
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


def _is_newer(revision: str | None, history: History) -> bool:
    """Tell whether only newer code can have made a schema: this code knows no such revision."""
    scripts = ScriptDirectory.from_config(_config(history)).walk_revisions()
    return revision is not None and revision not in {script.revision for script in scripts}


def _revision(connection: Connection, history: History) -> str | None:
    """Return the revision that the database says it is at."""
    exists = connection.scalar(text("SELECT to_regclass(:name)"), {"name": history.version_table})
    if exists is None:
        return None
    return connection.scalar(text(f"SELECT version_num FROM {history.version_table}"))


def _config(history: History, connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(HERE))
    config.set_main_option("version_locations", str(HERE / history.folder / "versions"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    config.attributes["version_table"] = history.version_table
    return config


def create_revision(message: str) -> Path:
    """Write an empty migration of your own and return its file."""
    script = command.revision(_config(HISTORIES[1]), message)
    first = script[0] if isinstance(script, list) else script
    assert first is not None, "one revision was asked for"  # noqa: S101 - alembic's type allows none
    return Path(first.path)


def migrate_now(settings: Settings) -> list[str]:
    """Upgrade the schema from code that is not async."""
    return asyncio.run(migrate(settings))
