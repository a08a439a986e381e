"""Reads the database for a page that is shown without it, too."""

import asyncio
from collections.abc import Awaitable

from ..core.units import Seconds
from ..infra.database import DATABASE_UNAVAILABLE

READ_TIMEOUT: Seconds = 5.0  # for all that one page reads
UNREADABLE = "The database cannot be read at the moment."
"""Shown in place of what was not read, which may exist."""


async def read[T](reading: Awaitable[T]) -> T | None:
    """Return what is read; None if the database is unavailable or does not answer in time."""
    try:
        async with asyncio.timeout(READ_TIMEOUT):
            return await reading
    except (*DATABASE_UNAVAILABLE, TimeoutError):
        return None  # `/ready`, and with it the first screen, has the reason soon
