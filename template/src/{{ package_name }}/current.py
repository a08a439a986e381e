"""Whether the schema is exactly the one that this code expects, asked without Alembic.

To load Alembic and its revisions takes as long as all else that a start does. So it is left to schemas
that are not current: those that lack a revision or an index, that newer code made, or that came
with a dump of another server.
"""

import ast
from collections.abc import Iterable
from pathlib import Path

import asyncpg
import logfire

from .config import Settings
from .infra.connections import CONNECT_TIMEOUT, open_connection
from .infra.database import DATABASE_AWAY

VERSIONS = Path(__file__).parent / "migrations"
HISTORIES = ("store", "app")
RELATIONS = (
    "events",
    "deliveries",
    "subscriptions",
    "scopes",
    "event_status",
    "store_version",
)
INDEXES = ("events_of_dropped",)
"""Those that are built beside the migrations, and may be missing."""

EXISTS = "SELECT to_regclass($1) IS NOT NULL"
COMPLETE = """
SELECT (SELECT bool_and(to_regclass(name) IS NOT NULL) FROM unnest($1::text[]) AS r (name))
   AND (SELECT bool_and(coalesce(i.indisvalid, false))
          FROM unnest($2::text[]) AS r (name)
          LEFT JOIN pg_index i ON i.indexrelid = to_regclass(r.name))
"""
# Transactions that this server has yet to reach: the log came with a dump of another one.
FOREIGN = "SELECT EXISTS (SELECT FROM events WHERE tx >= pg_snapshot_xmax(pg_current_snapshot()))"


async def is_current(settings: Settings) -> bool:
    """Tell whether there is nothing to migrate, to build or to report; False if that is not certain."""
    try:
        connection = await open_connection(
            settings.dsn, timeout=CONNECT_TIMEOUT, silence=settings.database_timeout
        )
        try:
            with logfire.suppress_instrumentation():
                return await _is_current(connection)
        finally:
            await connection.close(timeout=CONNECT_TIMEOUT)
    except (*DATABASE_AWAY, asyncpg.PostgresError, OSError, SyntaxError):
        return False  # the full check explains it


async def _is_current(connection: asyncpg.Connection) -> bool:
    if not await connection.fetchval(COMPLETE, RELATIONS, INDEXES):
        return False
    for history in HISTORIES:
        wanted = head_of((VERSIONS / history / "versions").glob("*.py"))
        if wanted is None or await _found(connection, f"{history}_version") != wanted:
            return False
    return not await connection.fetchval(FOREIGN)


async def _found(connection: asyncpg.Connection, table: str) -> list[str]:
    if not await connection.fetchval(EXISTS, table):
        return []
    rows = await connection.fetch(f"SELECT version_num FROM {table}")  # noqa: S608 - a name of ours
    return [row["version_num"] for row in rows]


def head_of(files: Iterable[Path]) -> list[str] | None:
    """Return the newest revision of a history, if it has any; None if it is not a plain line."""
    before: dict[object, object] = {}
    for file in files:
        said = _constants(file)
        if "revision" not in said or said["revision"] in before:
            return None
        before[said["revision"]] = said.get("down_revision")
    heads = [each for each in before if each not in before.values()]
    is_line = len(set(before.values())) == len(before) and set(before.values()) <= {None, *before}
    return [str(each) for each in heads] if is_line and len(heads) <= 1 else None


def _constants(file: Path) -> dict[str, object]:
    """Return the constants that a module assigns; it is not run."""
    found: dict[str, object] = {}
    for node in ast.parse(file.read_bytes()).body:
        match node:
            case ast.Assign(targets=[ast.Name(name)], value=ast.Constant(value)):
                found[name] = value
            case ast.AnnAssign(target=ast.Name(name), value=ast.Constant(value)):
                found[name] = value
            case ast.Assign(targets=[ast.Name(name)]) | ast.AnnAssign(target=ast.Name(name)):
                found[name] = node  # like no constant
            case _:
                pass
    return found
