"""Renews the leases of one consumer's deliveries, except the abandoned ones."""

import asyncio
from collections.abc import Iterable

import logfire

from ...config import Settings
from ...core.units import Seconds
from ..database import DATABASE_UNAVAILABLE, Fetch
from .buffer import Buffer
from .claim import IS_LEASED, MATCHES_TOKENS, Token, columns, seqs
from .inflight import InFlight
from .releases import Releases

RENEWALS_PER_LEASE = 3  # two may fail before the lease expires

RENEW = f"""
UPDATE deliveries d
   SET due_at = now() + $4::float8 * interval '1 second'
 WHERE {MATCHES_TOKENS} AND {IS_LEASED}
RETURNING d.seq, d.fence
"""  # noqa: S608 - interpolates constant SQL only


class LeaseRenewal:
    """Renews the leases of deliveries that are buffered or being handled, and abandons the others."""

    def __init__(
        self,
        fetch: Fetch,
        subscriber: str,
        in_flight: InFlight,
        buffer: Buffer,
        releases: Releases,
        settings: Settings,
    ) -> None:
        self._fetch = fetch
        self._subscriber = subscriber
        self._in_flight = in_flight
        self._buffer = buffer
        self._releases = releases
        self._lease = settings.event_lease

    async def run(self) -> None:
        """Renew the leases until cancelled.

        It goes on after any error, since two of three renewals may fail.
        """
        while True:
            await asyncio.sleep(self._lease / RENEWALS_PER_LEASE)
            self._abandon()
            try:
                await self._renew()
            except DATABASE_UNAVAILABLE as error:
                logfire.warn("Leases were not renewed: {error}", error=repr(error))
            except Exception as error:
                logfire.error(
                    "Leases were not renewed: {error}", error=repr(error), _exc_info=error
                )

    def _abandon(self) -> None:
        """Stop renewing abandoned deliveries: their leases expire, and another worker claims them."""
        abandoned = self._in_flight.abandoned()
        for each in abandoned:
            logfire.error(
                "No handler works on {delivery} any more: its lease is no longer renewed",
                delivery=str(each),
                seq=each.token.seq,
                worked_on=each.blocks > 0,
            )
        self._releases.requeued([each.token for each in abandoned])

    async def _renew(self) -> None:
        if self._in_flight.is_loop_stuck():
            await self._release_buffered()
        if tokens := self._in_flight.tokens():
            renewed = await renew(self._fetch, self._subscriber, tokens, self._lease)
            self._releases.requeued([token for token in tokens if token.seq not in renewed])

    async def _release_buffered(self) -> None:
        """Release the buffered deliveries of a loop that is stuck."""
        if buffered := self._buffer.clear():
            logfire.error(
                "The loop takes no more events: {count} buffered ones are released",
                count=len(buffered),
            )
            await self._releases.release(buffered)


async def renew(fetch: Fetch, subscriber: str, tokens: Iterable[Token], lease: Seconds) -> set[int]:
    """Renew leases for `lease` seconds; return the `seq` of each whose token is still valid."""
    return seqs(await fetch(RENEW, subscriber, *columns(tokens), lease))
