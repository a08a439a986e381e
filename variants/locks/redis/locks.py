"""Locks that allow one handler at a time for each scope, across all processes, by Redis.

Each lock has an owner, who renews it, and expires after one lease. So a process that dies blocks its scopes for one
lease at most. If a lock is lost, the scope's version in the database prevents that its former owner acts.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import logfire
from redis.asyncio import Redis
from redis.asyncio.lock import Lock
from redis.exceptions import LockError, RedisError

from ..config import Settings
from ..core.units import Scope, Seconds
from .database import StartupError
from .model.breaker import Unavailable
from .process.background import BackgroundTasks
from .process.supervise import Supervised

LEASE: Seconds = 15.0
RENEWALS_PER_LEASE = 3  # two may fail before the lock expires
PREFIX = f"{__name__.partition('.')[0]}:lock:"  # other services may share the server
POLL: Seconds = 0.05  # between attempts to get a lock that another handler has
RETRY_IN: Seconds = 1.0  # before an event is claimed again while Redis is unavailable


class ScopeBusy(Exception):
    """Another handler has the scope's lock."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(f"scope {scope!r} is being handled")
        self.scope = scope


@dataclass
class Held:
    """A lock that this process acquired, and may have lost."""

    lock: Lock
    renewed: float = field(default_factory=time.monotonic)
    """When it was last acquired or renewed, on this process's monotonic clock."""


class ScopedLocks:
    """The Redis locks of one process."""

    across_processes = True
    """Whether other processes respect these locks."""

    def __init__(self, redis: Redis, *, prefix: str = PREFIX, lease: Seconds = LEASE) -> None:
        self._redis = redis
        self._prefix = prefix
        self._lease = lease
        self._background = BackgroundTasks()
        self._held: dict[Scope, Held] = {}

    @asynccontextmanager
    async def acquire(self, scope: Scope, *, wait: bool = True) -> AsyncGenerator[None]:
        """Hold the scope's lock for the block.

        Raises:
            ScopeBusy: with `wait=False`, another handler has it.
            Unavailable: Redis does not answer; the event is deferred without spending an attempt.
        """
        lock = self._redis.lock(self._prefix + scope, timeout=self._lease, thread_local=False)
        while not await _try_lock(lock):
            if not wait:
                raise ScopeBusy(scope)
            await asyncio.sleep(POLL * random.uniform(0.5, 1.5))  # noqa: S311 - only jitter
        held = self._held[scope] = Held(lock)
        renewing = asyncio.create_task(
            Supervised(f"lock of {scope}", partial(self._renew, held)).run()
        )
        try:
            yield
        finally:
            renewing.cancel()
            await asyncio.shield(
                self._background.start(self._release(lock, scope), f"unlocking {scope!r}")
            )

    async def confirm(self, scope: Scope) -> None:
        """Ensure that this process has the scope's lock; acquire a lost one again.

        Raises:
            ScopeBusy: it was lost, and another handler has it.
        """
        held = self._held.get(scope)
        if held is None or time.monotonic() - held.renewed < self._lease:
            return
        try:
            if not (await held.lock.owned() or await held.lock.acquire(blocking=False)):
                raise ScopeBusy(scope)
        except RedisError as error:  # the scope's version in the database decides
            logfire.warn("Redis did not answer: {error}", error=repr(error))
        held.renewed = time.monotonic()

    def is_locked(self, scope: Scope) -> bool:
        """Return whether this process has the scope's lock."""
        return scope in self._held

    async def _renew(self, held: Held) -> None:
        while True:
            await asyncio.sleep(self._lease / RENEWALS_PER_LEASE)
            try:
                await held.lock.reacquire()
                held.renewed = time.monotonic()
            except LockError as error:  # `confirm` acquires it again, unless another handler has it
                logfire.warn("A lock was lost: {error}", error=str(error))
            except RedisError as error:
                logfire.warn("Redis did not answer: {error}", error=repr(error))

    async def _release(self, lock: Lock, scope: Scope) -> None:
        self._held.pop(scope, None)
        try:
            await lock.release()
        except RedisError as error:
            # It has expired, or Redis is unavailable and it will expire.
            logfire.warn("The lock of {scope} was lost: {error}", scope=scope, error=repr(error))


async def _try_lock(lock: Lock) -> bool:
    try:
        return await lock.acquire(blocking=False)
    except RedisError as error:
        raise Unavailable(f"Redis cannot be reached ({error})", RETRY_IN) from error


@asynccontextmanager
async def open_locks(settings: Settings) -> AsyncGenerator[ScopedLocks]:
    """Open the locks of this process, and close their connections at the end of the block.

    Raises:
        StartupError: REDIS_URL is not set or not valid, or its server cannot be reached.
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
