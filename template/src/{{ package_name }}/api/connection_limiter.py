"""Limit the connections of the process, in total and for each client, and the time they may take.

Uvicorn waits for headers and messages without a limit, and accepts connections until the process may
open no more files. If a limit is reached, the connection that is idle for longest is closed.
"""

import asyncio
import time
from functools import cache
from typing import Protocol

import logfire

from ..config import Settings, get_settings
from ..core.units import Seconds
from .addresses import TrustedProxies, network_of
from .memory_limiter import MemoryLimiter

CHECK_INTERVAL: Seconds = 1.0  # between checks for connections that exceed their time
WARNING_INTERVAL: Seconds = 60.0  # between warnings about limits, which clients can cause at will
RESERVED_FILES = 100  # kept free for database connections, calls of tools and logs


class Connection(Protocol):
    """A connection of either protocol."""

    network: str
    """The client's network, from `network_of`."""

    @property
    def idle_since(self) -> Seconds | None:
        """The loop time in seconds since which no request is in progress; None if one is."""
        ...

    def enforce_timeouts(self, now: Seconds) -> None:
        """Close the connection if a request or message is not complete in time."""
        ...

    def abort(self) -> None:
        """Close the connection at once."""
        ...


class ConnectionLimiter:
    """The connections of the process, with their limits."""

    def __init__(self, settings: Settings) -> None:
        self.header_timeout = settings.api_header_timeout
        self.body_timeout = settings.api_body_timeout
        self.unfinished_messages = MemoryLimiter(settings)
        """The memory of incomplete WebSocket messages."""
        self._max_connections = min(settings.api_max_sockets, _open_file_limit() - RESERVED_FILES)
        self._max_per_network = settings.api_max_per_address
        self._proxies = TrustedProxies(settings)
        self._by_network: dict[str, set[Connection]] = {}
        self._count = 0
        self._check_scheduled = False
        self._warned_at = -WARNING_INTERVAL

    def add(self, connection: Connection, address: str) -> str | None:
        """Register a connection and return None, or return a sentence that names the reached limit."""
        connection.network = network_of(address)
        siblings = self._by_network.setdefault(connection.network, set())
        crowded = len(siblings) >= self._max_per_network and not self._proxies.includes(address)
        if crowded and not self._evict_idle(siblings):
            return self._warn("This address has too many connections (API_MAX_PER_ADDRESS).")
        if self._count >= self._max_connections and not self._evict_idle(
            siblings if crowded else max(self._by_network.values(), key=len)
        ):
            return self._warn("There are too many connections (API_MAX_SOCKETS).")
        siblings.add(connection)
        self._count += 1
        self._schedule_check()
        return None

    def discard(self, connection: Connection) -> None:
        """Remove a connection, if it is registered."""
        siblings = self._by_network.get(connection.network, set())
        if connection in siblings:
            siblings.remove(connection)
            self._count -= 1
        if not siblings:
            self._by_network.pop(connection.network, None)

    def upgrade(self, connection: Connection, upgraded: Connection) -> None:
        """Replace the HTTP protocol of a connection by its WebSocket protocol."""
        upgraded.network = connection.network
        self.discard(connection)
        self._by_network.setdefault(upgraded.network, set()).add(upgraded)
        self._count += 1

    def _evict_idle(self, among: set[Connection]) -> bool:
        """Close the connection that is idle for longest; return False if none is idle."""
        idle = [(each.idle_since, id(each), each) for each in among if each.idle_since is not None]
        if not idle:
            return False
        _, _, longest = min(idle)
        self.discard(longest)
        longest.abort()
        self._warn("Connections without a request were closed to make room.")
        return True

    def _warn(self, sentence: str) -> str:
        """Log a sentence, at most once in `WARNING_INTERVAL`, and return it."""
        if (now := time.monotonic()) > self._warned_at + WARNING_INTERVAL:
            self._warned_at = now
            logfire.warn("{sentence} {count} are open", sentence=sentence, count=self._count)
        return sentence

    def _schedule_check(self) -> None:
        if not self._check_scheduled:
            self._check_scheduled = True
            asyncio.get_running_loop().call_later(CHECK_INTERVAL, self._check)

    def _check(self) -> None:
        now = asyncio.get_running_loop().time()
        for connection in [each for siblings in self._by_network.values() for each in siblings]:
            connection.enforce_timeouts(now)
        self._check_scheduled = False
        if self._count:
            self._schedule_check()


@cache
def connection_limiter() -> ConnectionLimiter:
    """Return the limiter of this process."""
    return ConnectionLimiter(get_settings())


def _open_file_limit() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return 8192
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2**31 if soft == resource.RLIM_INFINITY else soft
