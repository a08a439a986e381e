"""Records the code of applied revisions, so that a later edit of one, which no database applies again, is found."""

import ast
import hashlib
from pathlib import Path

from alembic.script import Script
from sqlalchemy import Connection, text

from .histories import HISTORIES, History, revision_of, scripts_of

DIGESTS = "migration_digests"
EXISTS = "SELECT to_regclass(:name) IS NOT NULL"
RECORD = """
INSERT INTO migration_digests (history, revision, digest) VALUES (:history, :revision, :digest)
    ON CONFLICT DO NOTHING
"""
RECORDED = "SELECT history, revision, digest FROM migration_digests"
FORGET = "DELETE FROM migration_digests WHERE history = :history AND revision = :revision"


def record_digests(connection: Connection) -> None:
    """Record the code of each applied revision that has no record yet."""
    if not _exists(connection):
        return
    known = {(row.history, row.revision) for row in connection.execute(text(RECORDED))}
    for history in HISTORIES:
        for script in _applied(connection, history):
            name = {"history": history.folder, "revision": script.revision}
            if (history.folder, script.revision) not in known:
                connection.execute(text(RECORD), {**name, "digest": _digest(script)})


def forget_digest(connection: Connection, history: History, revision: str) -> None:
    """Forget the code of a revision that was taken back: it may be edited and applied again."""
    if _exists(connection):
        connection.execute(text(FORGET), {"history": history.folder, "revision": revision})


def edited_revisions(connection: Connection) -> list[str]:
    """Return the names of the applied revisions whose code differs from what was applied."""
    if not _exists(connection):
        return []
    recorded = {
        (row.history, row.revision): row.digest for row in connection.execute(text(RECORDED))
    }
    return [
        f"{history.folder}: {script.revision} ({script.doc})"
        for history in HISTORIES
        for script in _applied(connection, history)
        if recorded.get((history.folder, script.revision), _digest(script)) != _digest(script)
    ]


def _exists(connection: Connection) -> bool:
    return bool(connection.scalar(text(EXISTS), {"name": DIGESTS}))


def _applied(connection: Connection, history: History) -> list[Script]:
    """Return the applied revisions whose files are here; none if the newest is unknown to this code."""
    scripts, newest = scripts_of(history), revision_of(connection, history)
    done = next((at for at, each in enumerate(scripts, 1) if each.revision == newest), 0)
    return scripts[:done]


def _digest(script: Script) -> str:
    """Return a digest of a revision's code, which comments, docstrings and formatting do not change."""
    tree = ast.parse(Path(script.path).read_bytes())
    return hashlib.sha256(repr(_canonical(tree)).encode()).hexdigest()


def _canonical(value: object) -> object:
    """Return a syntax tree as lists, without empty fields, which differ between versions of Python."""
    if isinstance(value, ast.AST):
        fields = [(name, _canonical(each)) for name, each in ast.iter_fields(value)]
        return [type(value).__name__, *(each for each in fields if each[1] not in ("None", []))]
    if isinstance(value, list):
        return [_canonical(each) for each in value if not _is_docstring(each)]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] - nodes or names
    return repr(value)


def _is_docstring(value: object) -> bool:
    return isinstance(value, ast.Expr) and isinstance(value.value, ast.Constant)
