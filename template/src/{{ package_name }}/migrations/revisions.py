"""Creates your migrations, decides which of them to apply, and takes them back."""

import ast
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from alembic import command
from alembic.script import Script
from sqlalchemy import Connection, text

from ..infra.database import StartupError
from .digests import forget_digest
from .histories import APP, config_of, revision_of, scripts_of

# A revision that was taken back: development does not apply it again while its file has this digest.
RECORD_TAKEN_BACK = """
INSERT INTO app_taken_back (revision, digest) VALUES (:revision, :digest)
    ON CONFLICT (revision) DO UPDATE SET digest = excluded.digest
"""
CREATE_TAKEN_BACK = """
CREATE TABLE IF NOT EXISTS app_taken_back (revision text PRIMARY KEY, digest text NOT NULL)
"""
TAKEN_BACK = "SELECT revision, digest FROM app_taken_back"


class Revision(NamedTuple):
    """An applied migration of yours."""

    id: str
    title: str
    path: Path


def create_revision(message: str) -> Path:
    """Create an empty migration and return its file."""
    title = message.replace("\\", "/").replace('"', "'")  # it becomes a docstring
    script = command.revision(config_of(APP), title)
    first = script[0] if isinstance(script, list) else script
    assert first is not None, "one revision was asked for"  # noqa: S101 - alembic's type allows none
    return Path(first.path)


def untouched_revisions() -> list[tuple[str, Path]]:
    """Return the name and the file of each of your revisions whose `upgrade` has no statement.

    Raises:
        StartupError: a file cannot be read, or the history is not linear.
    """
    found = [(script, Path(script.path)) for script in scripts_of(APP)]
    return [(_name(script), path) for script, path in found if _is_untouched(path)]


def ready(
    scripts: Sequence[Script], taken_back: Mapping[str, str]
) -> tuple[Sequence[Script], str | None]:
    """Return the revisions before the first that must wait, and a sentence about that one, or None.

    Later revisions wait with it, since they depend on it.
    """
    for place, script in enumerate(scripts):
        if reason := _why_it_waits(script, taken_back.get(script.revision)):
            later = len(scripts) - place - 1
            waiting = f" The {later} after it wait, too." if later else ""
            return scripts[:place], f"The revision {_name(script)} {reason}.{waiting}"
    return scripts, None


def taken_back_in(connection: Connection) -> dict[str, str]:
    """Return the revisions that were taken back, with the digests of their files."""
    if connection.scalar(text("SELECT to_regclass('app_taken_back')")) is None:
        return {}
    return {row.revision: row.digest for row in connection.execute(text(TAKEN_BACK))}


def newest(connection: Connection) -> Revision:
    """Return the newest of your migrations that is applied.

    Raises:
        StartupError: there is none, or it cannot be taken back.
    """
    script = _script(revision_of(connection, APP))
    path = Path(script.path)
    if _does_nothing(path, "downgrade") and not _does_nothing(path, "upgrade"):
        raise StartupError(
            f"The revision {_name(script)} cannot be taken back: its downgrade() does nothing; write"
            f" there the statements that undo its upgrade(), in {path}."
        )
    if not isinstance(script.down_revision, str | None):
        raise StartupError(
            f"The revision {_name(script)} merges others and cannot be taken back: undo the"
            " merged ones by another revision."
        )
    return Revision(script.revision, script.doc, path)


def take_back(connection: Connection, revision: Revision) -> None:
    """Downgrade a migration, and record it as taken back.

    Raises:
        StartupError: it is no longer the newest, since another process migrated meanwhile.
    """
    if newest(connection) != revision:
        raise StartupError(
            f"The revision {revision.id} is no longer the newest: check which one is, and try again."
        )
    before = _script(revision.id).down_revision
    command.downgrade(config_of(APP, connection), str(before or "base"))
    forget_digest(connection, APP, revision.id)
    connection.execute(text(CREATE_TAKEN_BACK))
    connection.execute(
        text(RECORD_TAKEN_BACK), {"revision": revision.id, "digest": _digest(revision.path)}
    )


def _script(revision: str | None) -> Script:
    if revision is None:
        raise StartupError("There is nothing to take back: the database has no migration of yours.")
    for script in scripts_of(APP):
        if script.revision == revision:
            return script
    raise StartupError(
        f"The database is at {revision}, whose file is missing here: take it back with the"
        " version that has it."
    )


def _why_it_waits(script: Script, taken_back: str | None) -> str | None:
    path = Path(script.path)
    if _is_untouched(path):
        return (
            f"is empty and was not applied: write its upgrade() in {path} (`pass`, if it is to do"
            " nothing)"
        )
    if taken_back == _digest(path):
        return (
            f"was taken back and is not applied again until {path} changes: edit or delete"
            " it, or run the `migrate` command"
        )
    return None


def _is_untouched(path: Path) -> bool:
    """Return whether a revision's `upgrade` still has no statement."""
    body = _body(path, "upgrade")
    return body is not None and all(_has_no_effect(statement, {""}) for statement in body)


def _does_nothing(path: Path, function: str) -> bool:
    """Return whether a function has no effect; 0.1.0 created revisions with `SELECT 1`."""
    body = _body(path, function) or []
    return all(
        isinstance(statement, ast.Pass) or _has_no_effect(statement, {"", "SELECT 1"})
        for statement in body
    )


def _body(path: Path, function: str) -> list[ast.stmt] | None:
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            return node.body
    return None


def _has_no_effect(statement: ast.stmt, nothing: set[str]) -> bool:
    match statement:
        case ast.Expr(value=ast.Constant()):  # a docstring, or `...`
            return True
        case ast.Expr(
            value=ast.Call(func=ast.Attribute(attr="execute"), args=[ast.Constant(str(sql))])
        ):
            return sql.strip() in nothing
        case _:
            return False


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _name(script: Script) -> str:
    return f"{script.revision} ({script.doc})"
