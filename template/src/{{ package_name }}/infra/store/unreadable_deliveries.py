"""Refuses claimed deliveries whose event this code cannot read, or whose event was erased."""

import logfire

from ...core.units import Seconds
from ..database import DATABASE_UNAVAILABLE, Fetch, Row
from ..telemetry import counters
from .backoff import Backoff, nack
from .claim import Token
from .claiming import Claiming
from .codec import Erased, NewerEvent, Unreadable
from .releases import Releases
from .settle import ack
from .wakes import WAKE_AGAIN

NEWER_DELAY: Seconds = 1.0  # before an event that only newer code can read is claimed again
AT_ONCE = Backoff(1.0, 1.0, attempts=0)
"""Dead-letters a delivery without a retry."""


class UnreadableDeliveries:
    """Dead-letters unreadable events, and releases those that newer code wrote."""

    def __init__(
        self, fetch: Fetch, subscriber: str, claiming: Claiming, releases: Releases
    ) -> None:
        self._fetch = fetch
        self._subscriber = subscriber
        self._claiming = claiming
        self._releases = releases

    async def refuse(self, row: Row, token: Token, error: Unreadable | NewerEvent) -> None:
        """Dead-letter an event that this code cannot read, or release one that newer code wrote.

        During a deploy, a worker with the newer code claims the latter. An erased event is settled: there is nothing
        left to decide on.
        """
        if isinstance(error, NewerEvent):
            logfire.warn("Released for a worker with newer code: {reason}", reason=str(error))
            await self._releases.release([token], NEWER_DELAY, reason=str(error))
        elif isinstance(error, Erased):
            await self._settle(row, token)
        else:
            await self._dead_letter(row, token, error)
            self._claiming.settled([token], final=False)

    async def _settle(self, row: Row, token: Token) -> None:
        try:
            counters.handled.add(len(await ack(self._fetch, self._subscriber, [token])))
            if token.admitted:  # what else its scope holds is evaluated without it
                await self._fetch(WAKE_AGAIN, self._subscriber, token.scope)
        except DATABASE_UNAVAILABLE as outage:  # it is claimed again when its lease expires
            logfire.warn("An erased event was not settled: {error}", error=repr(outage))
        logfire.info("Event {id} was erased: no decision follows", id=row["id"])
        self._claiming.settled([token], final=True)

    async def _dead_letter(self, row: Row, token: Token, error: Unreadable) -> None:
        reason = f"it is not a valid {row['type']} event any more: {error}"
        try:
            died = await nack(self._fetch, self._subscriber, token, reason, None, AT_ONCE)
        except DATABASE_UNAVAILABLE as outage:
            # It is claimed again when its lease expires; the rest of the batch does not wait.
            logfire.warn("An unreadable event was not dead-lettered: {error}", error=repr(outage))
            return
        if not died:
            return  # its lease expired: the worker that has it now dead-letters it
        counters.dead.add(1)
        logfire.error("Event {id} was dead-lettered: {reason}", id=row["id"], reason=reason)
