"""Check the key before a request's body is read, and limit the body's size, time and memory.

FastAPI runs a route's dependencies after it has read the body. So these checks run when the route
starts to read. A route without a body does not pay for them.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, NamedTuple

from fastapi import HTTPException
from starlette.types import Message, Receive, Scope

from ..config import Settings
from ..core.units import Seconds
from .auth import CALLER
from .errors import RETRY_AFTER
from .memory_limiter import MemoryLimiter, weight
from .route_security import RouteSecurity

MEMORY_FULL = (
    "Other requests use all memory for bodies at the moment (API_MAX_INTAKE_BYTES). Send it again:"
    " with the same id, nothing is stored twice."
)
TOO_MANY_VALUES = (
    "body: it has too many values for API_MAX_INTAKE_BYTES; send less, or several requests"
)
CHECK_INTERVAL: Seconds = 1.0  # between checks for bodies that exceed their time


class BodyLimits(NamedTuple):
    """The limits of one request's body."""

    bytes: int
    """The most bytes of the body."""
    weight: int
    """The most memory of all bodies together, in bytes, at which another part is read."""


class BodyPolicy:
    """The limits that apply to all bodies of an application."""

    def __init__(
        self, settings: Settings, memory: MemoryLimiter, max_bytes_by_endpoint: Mapping[Any, int]
    ) -> None:
        self.memory = memory
        self.pending = PendingBodies(settings.api_body_timeout)
        self._max_bytes = settings.api_max_body_bytes
        self._max_bytes_by_endpoint = {
            id(endpoint): limit for endpoint, limit in max_bytes_by_endpoint.items()
        }
        self._security = RouteSecurity()

    async def limits_for(self, scope: Scope) -> BodyLimits:
        """Return the limits of a request's body.

        Raises:
            HTTPException: the key is not valid, or `Content-Length` exceeds the limit.
        """
        await self._security.check(scope)
        known = scope.get(CALLER) is not None
        most = self._max_bytes_by_endpoint.get(id(scope.get("endpoint")), self._max_bytes)
        if _content_length(scope) > most:
            raise too_large(most)
        # On public routes, clients without a key get half of the memory: the rest is for valid keys.
        return BodyLimits(most, self.memory.limit if known else self.memory.limit // 2)


class LimitedBody:
    """The `receive` of one request, with limits on what it returns."""

    __slots__ = (  # one object for each request
        "_acquired",
        "_bytes_read",
        "_complete",
        "_limits",
        "_policy",
        "_receive",
        "_scope",
        "_started_at",
        "_task",
        "_timed_out",
    )

    def __init__(self, scope: Scope, receive: Receive, policy: BodyPolicy) -> None:
        self._scope = scope
        self._receive = receive
        self._policy = policy
        self._limits: BodyLimits | None = None
        self._complete = self._timed_out = False
        self._bytes_read = self._acquired = 0

    async def receive(self) -> Message:
        """Return the next message of the body, or what follows the last one.

        Raises:
            HTTPException: the key is not valid, or the body exceeds a limit.
        """
        if self._complete:
            return await self._receive()
        if self._limits is None:
            self._limits = await self._policy.limits_for(self._scope)
            self._task = asyncio.current_task()
            self._started_at = asyncio.get_running_loop().time()
        message = await self._receive_part()
        if data := message.get("body"):
            self._account(data, self._limits)
        self._complete = not message.get("more_body", False)
        return message

    async def _receive_part(self) -> Message:
        pending = self._policy.pending
        pending.add(self)
        try:
            return await self._receive()
        except asyncio.CancelledError:
            if not self._timed_out or self._task is None or self._task.uncancel():
                raise
            limit = f"API_BODY_TIMEOUT, {pending.timeout:g} s"
            raise HTTPException(
                408, f"body: it was not complete within {limit}; send it again"
            ) from None
        finally:
            pending.discard(self)

    def _account(self, data: bytes, limits: BodyLimits) -> None:
        self._bytes_read += len(data)
        if self._bytes_read > limits.bytes:
            raise too_large(limits.bytes)
        more, memory = weight(data), self._policy.memory
        if self._acquired + more > memory.limit // 2:
            raise HTTPException(413, TOO_MANY_VALUES)
        if not memory.try_acquire(more, limits.weight):
            raise HTTPException(503, MEMORY_FULL, {"Retry-After": RETRY_AFTER})
        self._acquired += more

    def release(self) -> None:
        """Release the memory of the body: the request was answered."""
        self._policy.memory.release(self._acquired)
        self._acquired = 0

    def enforce_timeout(self, now: float, timeout: Seconds) -> None:
        """Cancel reading if it takes longer than `timeout` seconds."""
        if now - self._started_at > timeout and not self._timed_out and self._task is not None:
            self._timed_out = True
            self._task.cancel()


class PendingBodies(set[LimitedBody]):
    """Bodies that are incomplete, checked by one timer.

    A timer for each body costs a request three times as much.
    """

    def __init__(self, timeout: Seconds) -> None:
        super().__init__()
        self.timeout = timeout
        self._checking = False

    def add(self, body: LimitedBody) -> None:
        """Start to watch a body."""
        super().add(body)
        if not self._checking:
            self._checking = True
            asyncio.get_running_loop().call_later(CHECK_INTERVAL, self._check)

    def _check(self) -> None:
        """Cancel the bodies that exceed their time; schedule another check while any is pending."""
        loop = asyncio.get_running_loop()
        for body in list(self):
            body.enforce_timeout(loop.time(), self.timeout)
        self._checking = bool(self)
        if self:
            loop.call_later(CHECK_INTERVAL, self._check)


def too_large(most: int) -> HTTPException:
    """Return the error for a body of more than `most` bytes."""
    return HTTPException(
        413, f"body: it is larger than {most} bytes; send less, or several requests"
    )


def _content_length(scope: Scope) -> int:
    """Return the declared length of a body in bytes; 0 if none is declared."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0
