"""A file that is touched while a process does its work, for whoever looks after processes without a port."""

import asyncio
import time
from pathlib import Path

from ..core.types import Seconds

INTERVAL: Seconds = 5.0
STALE_AFTER: Seconds = 30.0  # an event loop that is blocked for so long is stuck


async def beat(file: Path) -> None:
    """Touch the file for ever; a blocked event loop stops that too."""
    while True:
        file.touch()  # noqa: ASYNC240 - it is to stop with the event loop
        await asyncio.sleep(INTERVAL)


def is_fresh(file: Path) -> bool:
    """Tell whether the file was touched a short while ago."""
    try:
        return time.time() - file.stat().st_mtime < STALE_AFTER
    except FileNotFoundError:
        return False
