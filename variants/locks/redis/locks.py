"""One handler at a time for each scope, across all processes, by locks in Redis.

Each lock has an owner and expires, so a process that dies blocks its scopes for one lease and no
longer; a living holder renews. Should a lock be lost all the same, the scope's version in the
database keeps its former holder from acting twice.
"""

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import logfire
from redis.asyncio import Redis
from redis.asyncio.lock import Lock
from redis.exceptions import LockError, RedisError

from ..config import Settings
from ..core.types import Scope, Seconds
from .database import StartupError

LEASE: Seconds = 15.0
RENEWALS_PER_LEASE = 3  # two may fail before the lock expires
PREFIX = f"{__name__.partition('.')[0]}:lock:"  # other services may share the server
POLL: Seconds = 0.05  # between looks at a lock that somebody else holds


class ScopeBusy(Exception):
    """Another handler has the scope, and the caller does not want to wait."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(f"scope {scope!r} is being handled")
        self.scope = scope


class ScopedLocks:
    """The Redis locks of one process."""

    across_processes = True
    """All processes on one Redis respect them."""

    def __init__(self, redis: Redis, *, prefix: str = PREFIX, lease: Seconds = LEASE) -> None:
        self._redis = redis
        self._prefix = prefix
        self._lease = lease
        self._held: set[Scope] = set()

    @asynccontextmanager
    async def acquire(self, scope: Scope, *, wait: bool = True) -> AsyncGenerator[None]:
        """Hold the scope's lock for the block.

        Raises:
            ScopeBusy: with `wait=False`, somebody else holds it.
        """
        lock = self._redis.lock(self._prefix + scope, timeout=self._lease, thread_local=False)
        while not await lock.acquire(blocking=False):
            if not wait:
                raise ScopeBusy(scope)
            await asyncio.sleep(POLL * random.uniform(0.5, 1.5))  # noqa: S311 - only jitter
        self._held.add(scope)
        renewing = asyncio.create_task(self._renew(lock, scope))
        try:
            yield
        finally:
            renewing.cancel()
            await asyncio.shield(self._release(lock, scope))

    def is_locked(self, scope: Scope) -> bool:
        """Tell whether this process holds the scope's lock."""
        return scope in self._held

    async def _renew(self, lock: Lock, scope: Scope) -> None:
        while True:
            await asyncio.sleep(self._lease / RENEWALS_PER_LEASE)
            try:
                await lock.reacquire()
            except LockError as error:
                logfire.warn("The lock of {scope} was lost: {error}", scope=scope, error=str(error))
                return
            except RedisError as error:
                logfire.warn("Redis did not answer: {error}", error=repr(error))

    async def _release(self, lock: Lock, scope: Scope) -> None:
        self._held.discard(scope)
        try:
            await lock.release()
        except RedisError as error:
            # It expired, or Redis is away and it will.
            logfire.warn("The lock of {scope} was lost: {error}", scope=scope, error=repr(error))


@asynccontextmanager
async def open_locks(settings: Settings) -> AsyncGenerator[ScopedLocks]:
    """Give the locks of this process, and their connections, for the block.

    Raises:
        StartupError: REDIS_URL is missing, wrong or leads to no server.
    """
    if settings.redis_url is None:
        raise StartupError(
            "REDIS_URL is not set: set it to redis://host:6379/0, where the locks live."
        )
    try:
        redis = Redis.from_url(settings.redis_url)
    except ValueError as error:
        raise StartupError(
            f"REDIS_URL is not valid ({error}): write redis://host:6379/0."
        ) from error
    async with redis:
        try:
            await redis.ping()
        except (RedisError, OSError) as error:
            raise StartupError(
                f"The Redis server of REDIS_URL cannot be reached ({error}): start it or correct the URL."
            ) from error
        yield ScopedLocks(redis)
