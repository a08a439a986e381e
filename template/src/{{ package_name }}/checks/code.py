"""Checks the code that the project's owner writes: that the agent can be imported, and empty migrations."""

import traceback
from importlib import import_module
from pathlib import Path

from ..core.units import Seconds
from ..infra.store.roundtrip import find_lossy_field
from ..infra.text import describe
from .findings import Finding, error, from_sentence, in_thread, ok, warning

IMPORT_TIMEOUT: Seconds = 60.0  # importing the agent loads its libraries
PACKAGE = __name__.partition(".")[0]


async def check_agent() -> list[Finding]:
    """Import the agent; return an error that names the line at which that fails."""
    try:
        await in_thread(lambda: import_module(f"{PACKAGE}.agent"))
    except (Exception, SystemExit) as problem:
        place = _place(problem)
        return [error("agent", f"Correct {place}", f"it cannot be imported: {describe(problem)}")]
    return [ok("agent", "it can be imported")]


def _place(problem: BaseException) -> str:
    """Return the last line of the package that an error passed through: `agent/tools.py:12`."""
    if isinstance(problem, SyntaxError) and problem.filename:
        return f"{_relative(problem.filename)}:{problem.lineno}"
    files = [
        (Path(frame.filename).as_posix(), frame.lineno)
        for frame in traceback.extract_tb(problem.__traceback__)
    ]
    for folder in ("/agent/", "/core/"):
        own = [each for each in files if f"/{PACKAGE}{folder}" in each[0]]
        if own:
            return f"{_relative(own[-1][0])}:{own[-1][1]}"
    return "its imports"


def _relative(file: str) -> str:
    return Path(file).as_posix().rpartition(f"/{PACKAGE}/")[2]


async def check_fields() -> list[Finding]:
    """Check that every field of every event type can be stored and read back."""
    unfit = find_lossy_field()
    return [from_sentence("event types", "error", unfit)] if unfit else []


async def check_migrations() -> list[Finding]:
    """Return a warning for each migration of the owner whose `upgrade` is still empty."""
    return await in_thread(_empty_migrations)


def _empty_migrations() -> list[Finding]:
    from ..migrations import untouched_revisions  # loads Alembic

    found = untouched_revisions()
    return [
        warning(
            "migrations",
            f"Write its upgrade() in {path.name}, or `pass`",
            f"{name} is empty: neither it nor a later one is applied",
        )
        for name, path in found
    ] or [ok("migrations", "none of yours is empty")]
