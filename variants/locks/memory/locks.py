"""One handler at a time for each scope, within this process.

Another process knows nothing of these locks. What keeps two processes from acting twice is the
scope's version in the database; run one worker, or choose locks that reach further.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from ..config import Settings
from ..core.types import Scope


class ScopeBusy(Exception):
    """Another handler has the scope, and the caller does not want to wait."""


class ScopedLocks:
    """A lock for each scope in use; one that nobody wants is dropped."""

    across_processes = False
    """Another process does not know of them."""

    def __init__(self) -> None:
        self._locks: dict[Scope, asyncio.Lock] = {}
        self._wanted: dict[Scope, int] = {}

    @asynccontextmanager
    async def acquire(self, scope: Scope, *, wait: bool = True) -> AsyncGenerator[None]:
        """Hold the scope's lock for the block.

        Raises:
            ScopeBusy: with `wait=False`, somebody else holds it.
        """
        if not wait and self.is_locked(scope):
            raise ScopeBusy(f"scope {scope!r} is being handled")
        lock = self._locks.setdefault(scope, asyncio.Lock())
        self._wanted[scope] = self._wanted.get(scope, 0) + 1
        try:
            async with lock:
                yield
        finally:
            self._wanted[scope] -= 1
            if not self._wanted[scope]:
                del self._wanted[scope], self._locks[scope]

    def is_locked(self, scope: Scope) -> bool:
        """Tell whether somebody holds the scope's lock."""
        return scope in self._locks and self._locks[scope].locked()


@asynccontextmanager
async def open_locks(settings: Settings) -> AsyncGenerator[ScopedLocks]:
    """Give the locks of this process."""
    yield ScopedLocks()
