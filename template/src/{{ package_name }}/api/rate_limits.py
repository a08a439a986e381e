"""Rate limits of each client: on requests, on published events, and on wrong keys.

Counts are in the memory of one process: with several processes, each allows the whole limit.
"""

import math
import time
from typing import NamedTuple

from fastapi import HTTPException
from limits import RateLimitItem, parse
from limits.storage import Storage
from limits.strategies import FixedWindowRateLimiter

from ..config import NO_LIMIT, Settings
from ..infra.telemetry.counters import ObservableCount

MAX_WINDOWS = 20_000  # in memory, and pairs of client and address whose key was valid


refusals = ObservableCount("api.limited", "{request}", "Requests and messages that a limit refused")


class RateLimited(HTTPException):
    """A client exceeded a limit; the detail names the limit and the seconds to wait."""

    def __init__(self, sentence: str, wait: int) -> None:
        again = f"{sentence}: try again in {wait} s"
        super().__init__(429, again, {"Retry-After": str(wait)})


class Window(NamedTuple):
    """The count of a fixed window, and the Unix time at which the window ends."""

    hits: int
    end: float


class WindowStorage(Storage):
    """Windows in memory, as a storage of the `limits` library.

    The library's own storage starts a thread every 10 ms while it is in use. At 500 requests a second
    it takes 27 us of CPU for each request, this one 1.2 us.
    """

    def __init__(self) -> None:
        super().__init__()
        self._windows: dict[str, Window] = {}

    @property
    def base_exceptions(self) -> type[Exception]:
        """The exceptions of the storage's backend."""
        return MemoryError

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """Add to the count of a key's window; return the count."""
        now = time.time()
        window = self._windows.get(key)
        if window is None or window.end <= now:
            if len(self._windows) >= MAX_WINDOWS:
                self._evict(now)
            window = Window(0, now + expiry)
        self._windows[key] = window = Window(window.hits + amount, window.end)
        return window.hits

    def get(self, key: str) -> int:
        """Return the count of a key's window."""
        window = self._windows.get(key)
        return 0 if window is None or window.end <= time.time() else window.hits

    def get_expiry(self, key: str) -> float:
        """Return the Unix time at which a key's window ends."""
        window = self._windows.get(key)
        return time.time() if window is None else window.end

    def check(self) -> bool:
        """Return whether the storage is available."""
        return True

    def reset(self) -> int:
        """Delete all windows; return their number."""
        count = len(self._windows)
        self._windows.clear()
        return count

    def clear(self, key: str) -> None:
        """Delete the window of a key."""
        self._windows.pop(key, None)

    def _evict(self, now: float) -> None:
        """Delete expired windows, and the older half of the others: clients can create any number."""
        live = {key: window for key, window in self._windows.items() if window.end > now}
        for key in list(live)[: len(live) - MAX_WINDOWS // 2]:
            del live[key]
        self._windows = live


class RateLimits:
    """The limits of all clients of a process."""

    def __init__(self, settings: Settings) -> None:
        self._limiter = FixedWindowRateLimiter(WindowStorage())
        self._requests = _limit(settings.api_limit_requests, "requests")
        self._strangers = _limit(settings.api_limit_strangers, "strangers")
        self._events = _limit(settings.api_limit_events, "events")
        self._logins = _limit(settings.api_limit_logins, "logins")
        self._known_clients: dict[tuple[str, str], None] = {}
        """Pairs of client name and address whose key was valid, oldest first."""

    def count_request(self, client: str) -> None:
        """Count a request of a client.

        Raises:
            RateLimited: the client sent too many requests.
        """
        if self._requests is not None and not self._limiter.hit(self._requests, client):
            sentence = "This client sent too many requests (API_LIMIT_REQUESTS)"
            raise self._limit_error(sentence, self._requests, client)

    def count_anonymous_request(self, address: str) -> None:
        """Count a request without a valid key.

        Raises:
            RateLimited: the address sent too many requests without a valid key.
        """
        if self._strangers is not None and not self._limiter.hit(self._strangers, address):
            sentence = (
                "This address sent too many requests without a valid key (API_LIMIT_STRANGERS)"
            )
            raise self._limit_error(sentence, self._strangers, address)

    def count_events(self, client: str, events: int) -> None:
        """Count published events of a client.

        Raises:
            RateLimited: the client published too many events.
        """
        if self._events is not None and not self._limiter.hit(self._events, client, cost=events):
            sentence = "This client published too many events (API_LIMIT_EVENTS)"
            raise self._limit_error(sentence, self._events, client)

    def count_failed_login(self, address: str) -> None:
        """Count a wrong key.

        Raises:
            RateLimited: the address sent too many wrong keys.
        """
        if self._logins is not None and not self._limiter.hit(self._logins, address):
            raise self._too_many_logins(self._logins, address)

    def check_login(self, client: str, address: str) -> None:
        """Reject a valid key from an address with too many wrong ones: it may be a lucky guess.

        A client whose key was valid at this address before is not rejected.

        Raises:
            RateLimited: the address sent too many wrong keys.
        """
        if (client, address) in self._known_clients:
            return
        if self._logins is not None and not self._limiter.test(self._logins, address):
            raise self._too_many_logins(self._logins, address)
        if len(self._known_clients) >= MAX_WINDOWS:
            del self._known_clients[next(iter(self._known_clients))]
        self._known_clients[client, address] = None

    def _too_many_logins(self, limit: RateLimitItem, address: str) -> RateLimited:
        return self._limit_error(
            "This address sent too many wrong keys (API_LIMIT_LOGINS)", limit, address
        )

    def _limit_error(self, sentence: str, limit: RateLimitItem, key: str) -> RateLimited:
        refusals.add(1)
        left = self._limiter.get_window_stats(limit, key).reset_time - time.time()
        return RateLimited(sentence, max(1, math.ceil(left)))


def _limit(setting: str, what: str) -> RateLimitItem | None:
    if setting == NO_LIMIT:
        return None
    limit = parse(setting)
    limit.namespace = what
    return limit
