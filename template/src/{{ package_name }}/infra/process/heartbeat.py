"""Write the state of a worker to a file, for supervisors of processes without a port.

The file's time shows whether the process lives. If the event loop blocks for `STALE_AFTER`, the process
dumps all thread stacks and exits with code 1, so that a supervisor restarts it.
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

from ...core.units import Seconds
from ..database import StartupError
from .supervise import Supervised

INTERVAL: Seconds = 5.0
STALE_AFTER: Seconds = 30.0  # a longer block of the event loop counts as a hang

type Report = Callable[[], Mapping[str, object]]
"""Returns the state of the process as JSON values."""


def check_writable(file: Path) -> None:
    """Check that the file can be written, and delete the state of an earlier process.

    Raises:
        StartupError: the file cannot be written.
    """
    try:
        if file.exists() and not file.is_file():
            raise OSError(errno.EINVAL, "it is not a regular file")
        _write(file, {})
        file.unlink()
    except OSError as error:
        raise StartupError(
            f"--heartbeat: {file} cannot be written ({error.strerror}): name a file in a folder that"
            " exists and that this user may write to."
        ) from error


@asynccontextmanager
async def write_heartbeats(file: Path, report: Report) -> AsyncGenerator[None]:
    """Write heartbeats for the block."""
    task = asyncio.create_task(
        Supervised("heartbeat", lambda: _write_regularly(file, report)).run()
    )
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])  # a late heartbeat would replace the watchdog of the shutdown
        faulthandler.cancel_dump_traceback_later()


async def _write_regularly(file: Path, report: Report) -> None:
    while True:
        # The next heartbeat replaces this timer.
        faulthandler.dump_traceback_later(STALE_AFTER, exit=True)
        try:
            _write(file, report())
        except OSError as error:
            logfire.warn("The heartbeat cannot be written: {error}", error=str(error))
        await asyncio.sleep(INTERVAL)


def _write(file: Path, state: Mapping[str, object]) -> None:
    """Replace the file atomically, so that a reader never sees half of it."""
    new = file.with_name(f"{file.name}.new")
    new.write_text(json.dumps(state))
    new.replace(file)


def is_fresh(file: Path) -> bool:
    """Return whether the file was written within `STALE_AFTER`."""
    try:
        return time.time() - file.stat().st_mtime < STALE_AFTER
    except FileNotFoundError:
        return False


def stopped_tasks(state: str) -> list[str]:
    """Return a clause for each task of a heartbeat that is restarting or stopped."""
    tasks: dict[str, dict[str, object]] = json.loads(state).get("tasks", {})
    return [
        f"{name} is {task['state']} ({task['error']})"
        for name, task in tasks.items()
        if task["state"] != "running"
    ]


def read_heartbeat(file: Path) -> str | None:
    """Return the last state of the process; None if there is no file."""
    return file.read_text() if file.exists() else None
