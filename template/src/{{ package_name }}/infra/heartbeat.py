"""A file in which a process says how it is while it does its work, for whoever looks after processes without a port.

Its time tells whether the process lives. One whose event loop no longer turns ends itself, with the
stack of every thread on standard error: what looks after processes restarts only those that end.
"""

import asyncio
import errno
import faulthandler
import json
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import logfire

from ..core.types import Seconds
from .database import StartupError
from .supervise import Supervised

INTERVAL: Seconds = 5.0
STALE_AFTER: Seconds = 30.0  # an event loop that is blocked for so long is stuck

type Report = Callable[[], Mapping[str, object]]
"""Says how the process is, in what JSON can carry."""


def claim(file: Path) -> None:
    """Make sure that the file can be written; what an earlier process said in it is gone.

    Raises:
        StartupError: it cannot.
    """
    try:
        if file.exists() and not file.is_file():
            raise OSError(errno.EINVAL, "it is something else than a file")
        _write(file, {})
        file.unlink()
    except OSError as error:
        raise StartupError(
            f"--heartbeat: {file} cannot be written ({error.strerror}): name a file in a folder that"
            " exists and that this user may write to."
        ) from error


@asynccontextmanager
async def beating(file: Path, report: Report) -> AsyncGenerator[None]:
    """Beat for the block."""
    task = asyncio.create_task(Supervised("heartbeat", lambda: _beat(file, report)).run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])  # a last beat would replace the guard of the stop
        faulthandler.cancel_dump_traceback_later()


async def _beat(file: Path, report: Report) -> None:
    while True:
        # It goes off unless the next beat puts it off.
        faulthandler.dump_traceback_later(STALE_AFTER, exit=True)
        try:
            _write(file, report())
        except OSError as error:
            logfire.warn("The heartbeat cannot be written: {error}", error=str(error))
        await asyncio.sleep(INTERVAL)


def _write(file: Path, said: Mapping[str, object]) -> None:
    """Write the file whole, so that nobody reads half of it."""
    new = file.with_name(f"{file.name}.new")
    new.write_text(json.dumps(said))
    new.replace(file)


def is_fresh(file: Path) -> bool:
    """Tell whether the file was written a short while ago."""
    try:
        return time.time() - file.stat().st_mtime < STALE_AFTER
    except FileNotFoundError:
        return False


def tasks_that_do_not_run(said: str) -> list[str]:
    """Return a sentence's part for each task of a heartbeat that is restarting or stopped."""
    tasks: dict[str, dict[str, object]] = json.loads(said).get("tasks", {})
    return [
        f"{name} is {task['state']} ({task['error']})"
        for name, task in tasks.items()
        if task["state"] != "running"
    ]


def last_words(file: Path) -> str | None:
    """Return what the process said last, if it ever did."""
    return file.read_text() if file.exists() else None
