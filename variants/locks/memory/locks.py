"""Locks that allow one handler at a time for each scope, within this process.

Run one worker only: other processes do not see these locks. If two workers run all the same, the scope's version in the
database prevents that both act.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from ..config import Settings
from ..core.units import Scope


class ScopeBusy(Exception):
    """Another handler has the scope's lock."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(f"scope {scope!r} is being handled")
        self.scope = scope


class ScopedLocks:
    """One lock for each scope in use; unused ones are removed."""

    across_processes = False
    """Whether other processes respect these locks."""

    def __init__(self) -> None:
        self._locks: dict[Scope, asyncio.Lock] = {}
        self._users: dict[Scope, int] = {}

    def acquire(self, scope: Scope, *, wait: bool = True) -> "LockBlock":
        """Hold the scope's lock for the block.

        Raises:
            ScopeBusy: with `wait=False`, another handler has it.
        """
        return LockBlock(self, scope, wait)

    async def lock(self, scope: Scope, wait: bool) -> None:
        """Acquire the lock; call `unlock` to release it.

        Raises:
            ScopeBusy: without `wait`, another handler has it.
        """
        if not wait and self.is_locked(scope):
            raise ScopeBusy(scope)
        lock = self._locks.setdefault(scope, asyncio.Lock())
        self._users[scope] = self._users.get(scope, 0) + 1
        try:
            await lock.acquire()
        except BaseException:
            self._remove_user(scope)
            raise

    def unlock(self, scope: Scope) -> None:
        """Release the lock; the handler that waits longest gets it."""
        self._locks[scope].release()
        self._remove_user(scope)

    def _remove_user(self, scope: Scope) -> None:
        self._users[scope] -= 1
        if not self._users[scope]:
            del self._users[scope], self._locks[scope]

    async def confirm(self, scope: Scope) -> None:
        """Do nothing: a lock of this process is never lost."""

    def is_locked(self, scope: Scope) -> bool:
        """Return whether a handler has the scope's lock."""
        return scope in self._locks and self._locks[scope].locked()


@dataclass
class LockBlock:
    """The block of `acquire`: a class, since a generator would take longer than most decisions."""

    locks: ScopedLocks
    scope: Scope
    wait: bool

    async def __aenter__(self) -> None:
        """Acquire the lock."""
        await self.locks.lock(self.scope, self.wait)

    async def __aexit__(self, *_: object) -> None:
        """Release the lock."""
        self.locks.unlock(self.scope)


@asynccontextmanager
async def open_locks(settings: Settings) -> AsyncGenerator[ScopedLocks]:
    """Provide the locks of this process."""
    yield ScopedLocks()
