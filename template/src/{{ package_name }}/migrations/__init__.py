"""Migrates the database to the schema that this code requires.

There are two histories, each with its own version table: `store` belongs to the event store and its updates, and `app`
is yours. So neither depends on the other's head. Indexes of large tables are built after both.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import logfire
from alembic import command
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from ..config import Settings
from ..core.units import Seconds
from ..infra.database import StartupError, create_engine
from ..infra.text import as_template
from .checks import SchemaOutdated as SchemaOutdated
from .checks import check, check_all, first_line, is_newer, remedy, to_apply
from .digests import edited_revisions, record_digests
from .histories import APP, HISTORIES, STORE, config_of, revision_of
from .indexes import IndexNotBuilt, Report, StoreIndex, build, missing_in
from .revisions import (
    Revision,
    create_revision,
    newest,
    take_back,
    taken_back_in,
    untouched_revisions,
)
from .roles import grant, make_role, service_role

__all__ = [
    "IndexNotBuilt",
    "Report",
    "Revision",
    "SchemaOutdated",
    "check_schema",
    "create_revision",
    "downgrade",
    "find_edited",
    "log",
    "migrate",
    "migrate_now",
    "newest_revision",
    "take_revision_back",
    "untouched_revisions",
    "warn",
]

LOCK = 5_219_203_774_018_266_113  # an arbitrary number, which all processes of the service share

# A dump has the transaction ids of another server. Readers of the log would get events with ids that this server has not
# reached yet as new ones.
RENUMBER = """
UPDATE events SET tx = pg_current_xact_id() WHERE tx >= pg_snapshot_xmax(pg_current_snapshot())
"""
# An administrator's time limit for statements must not end those that read whole tables.
NO_STATEMENT_TIMEOUT = "SET LOCAL statement_timeout = 0"


class Upgraded(NamedTuple):
    """The result of an upgrade: applied revisions, warnings, and missing indexes."""

    applied: list[str]
    notes: list[str]
    missing: list[StoreIndex]


def log(sentence: str) -> None:
    """Log a sentence about progress."""
    logfire.info(as_template(sentence))


def warn(sentence: str) -> None:
    """Log a warning about the schema."""
    logfire.warn(as_template(sentence))


async def migrate(
    settings: Settings,
    *,
    reapply: bool = True,
    index_timeout: Seconds | None = None,
    on_progress: Report = log,
    on_warning: Report = warn,
) -> list[str]:
    """Upgrade the schema, all of it or, on an error, nothing; return the applied revisions in order.

    Several processes may call this at once: one migrates, and the others wait for it. A schema of newer code is not
    changed. A log that was restored from another server's dump gets transaction ids of this server.

    Missing indexes are built afterwards. `on_progress` gets sentences about their progress, and `on_warning` gets the reason of each
    of your revisions that is not applied. Without `reapply`, a revision that was taken back is applied only after its file
    has changed. `index_timeout` is the longest time for one index, in seconds.

    Raises:
        StartupError: the schema cannot be upgraded.
        IndexNotBuilt: only an index is missing.
    """
    try:
        upgraded = await _in_a_transaction(
            settings.owner, lambda it: _upgrade(it, settings, reapply=reapply)
        )
    except (CommandError, DBAPIError) as error:
        raise StartupError(
            f"The database schema cannot be upgraded ({first_line(error)}): {remedy(error)}."
        ) from error
    for sentence in upgraded.notes:
        on_warning(sentence)
    with logfire.suppress_instrumentation():
        await build(settings.owner, upgraded.missing, on_progress, index_timeout)
    return upgraded.applied


async def check_schema(
    settings: Settings, *, reapply: bool = True, on_warning: Report = warn
) -> None:
    """Check that the schema is the one that this code requires, or a newer one.

    A newer schema is accepted because a deploy migrates first. Old processes that restart meanwhile, and a version that
    is rolled back to, work with it if migrations expand before they contract. Without `reapply`, a revision that was taken
    back may be missing.

    Raises:
        StartupError: the schema is older or incomplete, or cannot be read.
    """
    try:
        notes = await _in_a_transaction(settings, lambda it: check_all(it, reapply=reapply))
    except DBAPIError as error:
        raise StartupError(
            f"The database schema cannot be checked ({first_line(error)}): {remedy(error)}."
        ) from error
    for sentence in notes:
        on_warning(sentence)


async def find_edited(settings: Settings) -> list[str]:
    """Return the names of the applied revisions whose code differs from what was applied."""
    return await _in_a_transaction(settings, edited_revisions)


async def newest_revision(settings: Settings) -> Revision:
    """Return the newest of your migrations that is applied.

    Raises:
        StartupError: there is none, or it cannot be taken back.
    """
    return await _in_a_transaction(settings.owner, newest)


async def take_revision_back(settings: Settings, revision: Revision) -> None:
    """Downgrade the newest of your migrations, all of it or, on an error, nothing.

    Development does not apply it again until its file has changed.

    Raises:
        StartupError: its downgrade fails, or it is no longer the newest.
    """

    def work(connection: Connection) -> None:
        _lock(connection)
        take_back(connection, revision)

    try:
        await _in_a_transaction(settings.owner, work)
    except (CommandError, DBAPIError) as error:
        raise StartupError(
            f"The revision {revision.id} cannot be taken back ({first_line(error)}): nothing was"
            f" changed; correct its downgrade() in {revision.path}."
        ) from error


async def downgrade(settings: Settings, revision: str = "base") -> None:
    """Revert the store's migrations down to a revision; by default drop all of its schema, events included."""
    await _in_a_transaction(settings.owner, partial(_downgrade, revision))


async def _in_a_transaction[T](settings: Settings, work: Callable[[Connection], T]) -> T:
    engine = create_engine(settings)
    try:
        with logfire.suppress_instrumentation():  # Alembic's many queries need no spans
            async with engine.begin() as connection:
                await connection.execute(text(NO_STATEMENT_TIMEOUT))
                return await connection.run_sync(work)
    finally:
        await engine.dispose()


def _lock(connection: Connection) -> None:
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})


def _downgrade(revision: str, connection: Connection) -> None:
    command.downgrade(config_of(STORE, connection), revision)


def _upgrade(connection: Connection, settings: Settings, *, reapply: bool) -> Upgraded:
    _lock(connection)
    role = service_role(connection, settings)
    applied = [] if role is None else make_role(connection, role)
    notes: list[str] = []
    for history in HISTORIES:
        before = revision_of(connection, history)
        if is_newer(before, history):
            continue
        taken_back = {} if reapply or history is not APP else taken_back_in(connection)
        scripts, waiting = to_apply(connection, history, taken_back)
        notes += [waiting] if waiting else []
        if scripts:
            command.upgrade(config_of(history, connection), scripts[-1].revision)
            after = revision_of(connection, history)
            applied.append(f"{history.folder}: {before or 'nothing'} -> {after}")
    record_digests(connection)
    newer = check(connection, {} if reapply else taken_back_in(connection))
    if not newer and (count := connection.execute(text(RENUMBER)).rowcount):
        applied.append(f"store: {count} events of another server's dump")
    if role is not None:
        notes += grant(connection, role)
    return Upgraded(applied, notes, [] if newer else missing_in(connection))


def migrate_now(settings: Settings, on_progress: Report) -> list[str]:
    """Call `migrate` from synchronous code; `on_progress` gets progress and warnings."""
    return asyncio.run(migrate(settings, on_progress=on_progress, on_warning=on_progress))
