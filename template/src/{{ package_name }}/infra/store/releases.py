"""Returns deliveries of one consumer to the queue, without spending an attempt."""

from collections.abc import Iterable, Sequence

import logfire

from ...core.units import Seconds
from ..database import DATABASE_UNAVAILABLE, Fetch
from . import claim
from .claim import Token
from .claiming import Claiming
from .notifier import Notifier
from .requeues import Requeues


class Releases:
    """Releases deliveries, and records which releases are not confirmed yet."""

    def __init__(
        self,
        fetch: Fetch,
        notifier: Notifier,
        subscriber: str,
        requeues: Requeues,
        claiming: Claiming,
    ) -> None:
        self._fetch = fetch
        self._notifier = notifier
        self._subscriber = subscriber
        self._requeues = requeues
        self._claiming = claiming
        self._unconfirmed: set[Token] = set()

    async def release(
        self, tokens: Sequence[Token], delay: Seconds = 0, reason: str | None = None
    ) -> bool:
        """Release deliveries, to be due after `delay` seconds; return False if the database is unavailable."""
        self.requeued(tokens)
        if not tokens:
            return True
        self._unconfirmed.update(tokens)  # kept if this is cancelled
        try:
            await claim.release(self._fetch, self._subscriber, tokens, delay, reason)
            self._claiming.next_due.forget()
            self._notifier.notify()
        except DATABASE_UNAVAILABLE as error:
            # No event is lost: the leases expire.
            logfire.warn("Deliveries were not released: {error}", error=repr(error))
            self._unconfirmed.difference_update(tokens)
            return False
        self._unconfirmed.difference_update(tokens)
        return True

    async def release_with_unconfirmed(self, tokens: Iterable[Token]) -> bool:
        """Release deliveries, and again those whose release is not confirmed yet."""
        return await self.release(list({*tokens, *self._unconfirmed}))

    def requeued(self, tokens: Sequence[Token]) -> None:
        """Record that deliveries go back to the queue, and are no longer in flight."""
        for token in tokens:
            self._requeues.note(token)
        if tokens:
            self._claiming.settled(tokens, final=False)
