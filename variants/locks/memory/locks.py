"""One handler at a time for each scope, within this process.

Another process knows nothing of these locks. What keeps two processes from acting twice is the
scope's version in the database; run one worker, or choose locks that reach further.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from ..config import Settings
from ..core.types import Scope


class ScopeBusy(Exception):
    """Another handler has the scope, and the caller does not want to wait."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(f"scope {scope!r} is being handled")
        self.scope = scope


class ScopedLocks:
    """A lock for each scope in use; one that nobody wants is dropped."""

    across_processes = False
    """Another process does not know of them."""

    def __init__(self) -> None:
        self._locks: dict[Scope, asyncio.Lock] = {}
        self._wanted: dict[Scope, int] = {}

    def acquire(self, scope: Scope, *, wait: bool = True) -> "Turn":
        """Hold the scope's lock for the block.

        Raises:
            ScopeBusy: with `wait=False`, somebody else holds it.
        """
        return Turn(self, scope, wait)

    async def take(self, scope: Scope, wait: bool) -> None:
        """Take the lock; whoever does gives it back."""
        if not wait and self.is_locked(scope):
            raise ScopeBusy(scope)
        lock = self._locks.setdefault(scope, asyncio.Lock())
        self._wanted[scope] = self._wanted.get(scope, 0) + 1
        try:
            await lock.acquire()
        except BaseException:
            self._forget(scope)
            raise

    def give_back(self, scope: Scope) -> None:
        """Give the lock to whoever waits for it."""
        self._locks[scope].release()
        self._forget(scope)

    def _forget(self, scope: Scope) -> None:
        self._wanted[scope] -= 1
        if not self._wanted[scope]:
            del self._wanted[scope], self._locks[scope]

    async def confirm(self, scope: Scope) -> None:
        """Do nothing: a lock of this process is never lost."""

    def is_locked(self, scope: Scope) -> bool:
        """Tell whether somebody holds the scope's lock."""
        return scope in self._locks and self._locks[scope].locked()


@dataclass
class Turn:
    """The block of `acquire`: a class, since a generator would cost more than most decisions."""

    locks: ScopedLocks
    scope: Scope
    wait: bool

    async def __aenter__(self) -> None:
        """Take the lock."""
        await self.locks.take(self.scope, self.wait)

    async def __aexit__(self, *_: object) -> None:
        """Give it back."""
        self.locks.give_back(self.scope)


@asynccontextmanager
async def open_locks(settings: Settings) -> AsyncGenerator[ScopedLocks]:
    """Give the locks of this process."""
    yield ScopedLocks()
