"""Check without Alembic whether the schema is exactly the one that this version expects.

Loading Alembic and its revisions takes as long as the rest of a start. So it is loaded only for a schema
that is not current: one that lacks a revision or an index, that a newer version migrated, or that was
restored from a dump of another server.
"""

import ast
from collections.abc import Iterable
from pathlib import Path

import asyncpg
import logfire

from .config import Settings
from .infra.connections import CONNECT_TIMEOUT, open_connection
from .infra.database import DATABASE_UNAVAILABLE

VERSIONS = Path(__file__).parent / "migrations"
HISTORIES = ("store", "app")
RELATIONS = (
    "events",
    "deliveries",
    "subscriptions",
    "scopes",
    "pollers",
    "event_status",
    "store_version",
)
INDEXES = (
    "events_of_dropped",
    "deliveries_pending",
    "deliveries_waiting",
    "deliveries_claimed",
    "scopes_waiting",
)
"""Indexes that are built outside the migrations, and may be missing."""
REPLACED_INDEXES = ("deliveries_ready",)
"""Indexes that are dropped once their successors are built."""

EXISTS = "SELECT to_regclass($1) IS NOT NULL"
COMPLETE = """
SELECT (SELECT bool_and(to_regclass(name) IS NOT NULL) FROM unnest($1::text[]) AS r (name))
   AND (SELECT bool_and(coalesce(i.indisvalid, false))
          FROM unnest($2::text[]) AS r (name)
          LEFT JOIN pg_index i ON i.indexrelid = to_regclass(r.name))
   AND NOT EXISTS (SELECT FROM unnest($3::text[]) AS r (name) WHERE to_regclass(name) IS NOT NULL)
"""
# Finds transaction ids that this server has not reached: the log was restored from another server.
FOREIGN = "SELECT EXISTS (SELECT FROM events WHERE tx >= pg_snapshot_xmax(pg_current_snapshot()))"


async def is_current(settings: Settings) -> bool:
    """Return whether there is nothing to migrate, build or report; False also if a check fails."""
    try:
        connection = await open_connection(
            settings.dsn, timeout=CONNECT_TIMEOUT, tcp_timeout=settings.database_timeout
        )
        try:
            with logfire.suppress_instrumentation():
                return await _is_current(connection)
        finally:
            await connection.close(timeout=CONNECT_TIMEOUT)
    except (*DATABASE_UNAVAILABLE, asyncpg.PostgresError, OSError, SyntaxError):
        return False  # the full check explains it


async def _is_current(connection: asyncpg.Connection) -> bool:
    if not await connection.fetchval(COMPLETE, RELATIONS, INDEXES, REPLACED_INDEXES):
        return False
    for history in HISTORIES:
        expected = head_of((VERSIONS / history / "versions").glob("*.py"))
        if expected is None or await _revisions(connection, f"{history}_version") != expected:
            return False
    return not await connection.fetchval(FOREIGN)


async def _revisions(connection: asyncpg.Connection, table: str) -> list[str]:
    if not await connection.fetchval(EXISTS, table):
        return []
    rows = await connection.fetch(f"SELECT version_num FROM {table}")  # noqa: S608 - a constant name
    return [row["version_num"] for row in rows]


def head_of(files: Iterable[Path]) -> list[str] | None:
    """Return the newest revision of a history, if it has any; None if the history is not linear."""
    before: dict[object, object] = {}
    for file in files:
        constants = _constants(file)
        if "revision" not in constants or constants["revision"] in before:
            return None
        before[constants["revision"]] = constants.get("down_revision")
    heads = [each for each in before if each not in before.values()]
    linear = len(set(before.values())) == len(before) and set(before.values()) <= {None, *before}
    return [str(each) for each in heads] if linear and len(heads) <= 1 else None


def _constants(file: Path) -> dict[str, object]:
    """Return the constants that a module assigns, without running it."""
    found: dict[str, object] = {}
    for node in ast.parse(file.read_bytes()).body:
        match node:
            case ast.Assign(targets=[ast.Name(name)], value=ast.Constant(value)):
                found[name] = value
            case ast.AnnAssign(target=ast.Name(name), value=ast.Constant(value)):
                found[name] = value
            case ast.Assign(targets=[ast.Name(name)]) | ast.AnnAssign(target=ast.Name(name)):
                found[name] = node  # equal to no constant
            case _:
                pass
    return found
