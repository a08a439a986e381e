"""One handler at a time for each scope, across all processes, by locks in Redis.

Each lock has an owner and expires, so a process that dies blocks its scopes for one lease and no
longer; a living holder renews. Should a lock be lost all the same, the scope's version in the
database keeps its former holder from acting twice.
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
from ..core.types import Scope, Seconds
from .background import Background
from .breaker import Unavailable
from .database import StartupError
from .supervise import Supervised

LEASE: Seconds = 15.0
RENEWALS_PER_LEASE = 3  # two may fail before the lock expires
PREFIX = f"{__name__.partition('.')[0]}:lock:"  # other services may share the server
POLL: Seconds = 0.05  # between looks at a lock that somebody else holds
RETRY_IN: Seconds = 1.0  # for an event whose lock Redis could not give


class ScopeBusy(Exception):
    """Another handler has the scope, and the caller does not want to wait."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(f"scope {scope!r} is being handled")
        self.scope = scope


@dataclass
class Held:
    """A lock that this process has, or had until it was lost."""

    lock: Lock
    renewed: float = field(default_factory=time.monotonic)
    """When it was last known to be held, on this process's monotonic clock."""


class ScopedLocks:
    """The Redis locks of one process."""

    across_processes = True
    """All processes on one Redis respect them."""

    def __init__(self, redis: Redis, *, prefix: str = PREFIX, lease: Seconds = LEASE) -> None:
        self._redis = redis
        self._prefix = prefix
        self._lease = lease
        self._background = Background()
        self._held: dict[Scope, Held] = {}

    @asynccontextmanager
    async def acquire(self, scope: Scope, *, wait: bool = True) -> AsyncGenerator[None]:
        """Hold the scope's lock for the block.

        Raises:
            ScopeBusy: with `wait=False`, somebody else holds it.
            Unavailable: Redis does not answer; an event that needs the lock waits, unspent.
        """
        lock = self._redis.lock(self._prefix + scope, timeout=self._lease, thread_local=False)
        while not await _take(lock):
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
        """Make sure that the scope's lock is still held; one that was lost is taken again.

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
        """Tell whether this process holds the scope's lock."""
        return scope in self._held

    async def _renew(self, held: Held) -> None:
        while True:
            await asyncio.sleep(self._lease / RENEWALS_PER_LEASE)
            try:
                await held.lock.reacquire()
                held.renewed = time.monotonic()
            except LockError as error:  # `confirm` takes it again, if nobody else has
                logfire.warn("A lock was lost: {error}", error=str(error))
            except RedisError as error:
                logfire.warn("Redis did not answer: {error}", error=repr(error))

    async def _release(self, lock: Lock, scope: Scope) -> None:
        self._held.pop(scope, None)
        try:
            await lock.release()
        except RedisError as error:
            # It expired, or Redis is unavailable and it will.
            logfire.warn("The lock of {scope} was lost: {error}", scope=scope, error=repr(error))


async def _take(lock: Lock) -> bool:
    try:
        return await lock.acquire(blocking=False)
    except RedisError as error:
        raise Unavailable(f"Redis cannot be reached ({error})", RETRY_IN) from error


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
