"""Runs reads for callers that wait: each has a time limit, and listings a limit of concurrency."""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import asyncpg

from ...config import Settings
from ...core.units import Seconds
from ..database import Fetch, ReadTooSlow, Row, StatementTooSlow
from .dedicated import DedicatedConnection


class Readers(NamedTuple):
    """A `Fetch` for each kind of read, so that none waits for another kind."""

    find: Fetch
    """Single events, the latest events, and the queries of operators."""
    estimate: Fetch
    """The planner's estimates, without the settings of dedicated connections."""
    list: Fetch
    """Pages of the log and of dead letters, on at most half of the pool's connections."""
    follow: Fetch
    """New events."""
    catch_up: Fetch
    """Events that a reader missed; readers take turns, a page each."""
    inspect: Fetch
    """What the console shows, a statement at a time: it may scan, and nothing else waits for it."""


class LimitedFetch:
    """Runs at most `at_once` statements concurrently, first come, first served.

    The others wait here instead of for a connection, so that other work on it is not delayed.
    """

    def __init__(self, fetch: Fetch, at_once: int, wait_timeout: Seconds | None = None) -> None:
        self._fetch = fetch
        self._at_once = at_once
        self._free = asyncio.Semaphore(at_once)
        self._wait_timeout = wait_timeout

    async def fetch(self, sql: str, /, *args: object) -> Sequence[Row]:
        """Wait for a turn, and run one statement.

        Raises:
            ReadTooSlow: it waited for longer than `wait_timeout`.
        """
        try:
            await asyncio.wait_for(self._free.acquire(), self._wait_timeout)
        except TimeoutError as error:
            raise ReadTooSlow(
                f"Only {self._at_once} may list at once, and this waited for {self._wait_timeout:g} s:"
                " try again later, or raise DATABASE_POOL_SIZE"
            ) from error
        try:
            return await self._fetch(sql, *args)
        finally:
            self._free.release()


def read_timeout(settings: Settings) -> Seconds:
    """Return the time limit of a read, in seconds."""
    return min(settings.database_read_timeout, settings.database_timeout)


def make_readers(
    pool: asyncpg.Pool, connections: Mapping[str, DedicatedConnection], settings: Settings
) -> Readers:
    """Return the readers that use the pool and the store's dedicated connections."""
    limit = read_timeout(settings)
    pooled = _name_timeout_setting(partial(pool.fetch, timeout=limit), settings)
    half = max(1, settings.database_pool_size // 2)
    return Readers(
        find=_name_timeout_setting(connections["find"].fetch, settings),
        estimate=pooled,
        list=LimitedFetch(pooled, half, limit).fetch,
        follow=connections["follow"].fetch,
        catch_up=LimitedFetch(connections["catch up"].fetch, 1).fetch,
        inspect=_name_timeout_setting(
            LimitedFetch(connections["inspect"].fetch, 1, limit).fetch, settings
        ),
    )


def _name_timeout_setting(fetch: Fetch, settings: Settings) -> Fetch:
    """Wrap `fetch` so that exceeding its time limit raises an error that names the setting."""
    limit = read_timeout(settings)
    shorter = limit < settings.database_timeout
    name = "DATABASE_READ_TIMEOUT" if shorter else "DATABASE_TIMEOUT"

    async def read(sql: str, /, *args: object) -> Sequence[Row]:
        try:
            return await fetch(sql, *args)
        except StatementTooSlow as error:
            raise ReadTooSlow(
                f"Reading took longer than {limit:g} s: ask for less, as with a smaller `limit`, or raise {name}"
            ) from error

    return read
