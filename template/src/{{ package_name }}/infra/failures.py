"""What becomes of events whose decision failed: handed back unspent, or settled as failed."""

import traceback
from dataclasses import dataclass
from typing import cast

import logfire

from ..core.types import Seconds
from .breaker import Unavailable
from .database import DATABASE_AWAY
from .locks import ScopeBusy
from .store import EventStore, ScopeMoved, Token
from .text import describe

BUSY_DELAY: Seconds = 0.2  # long enough to let others in, short enough not to be noticed


@dataclass
class Settling:
    """The block of `Memory.settling`: a class, since a generator would cost more than most decisions."""

    store: EventStore
    tokens: tuple[Token, ...]

    async def __aenter__(self) -> None:
        """Begin the block."""

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        """Settle what failed; what is cancelled is handed back by the subscription."""
        if not isinstance(error, Exception):
            return False
        if isinstance(error, ScopeBusy):
            await self.store.pass_on(error.scope, *self.tokens, seconds=BUSY_DELAY)
        elif isinstance(error, ScopeMoved):
            logfire.debug("Handed back: {reason}", reason=str(error))
            await self.store.hand_back(*self.tokens, delay=BUSY_DELAY)
        elif away := _unavailable(error):
            logfire.warn("Waiting {seconds} s: {reason}", seconds=away.retry_in, reason=str(away))
            self.store.pause(away.retry_in)
            await self.store.hand_back(*self.tokens, delay=away.retry_in)
        else:
            logfire.error("Decision failed: {error}", error=describe(error), _exc_info=error)
            await self._nack(error)
        return True

    async def _nack(self, error: Exception) -> None:
        details = "".join(traceback.format_exception(error))
        reason = describe(error)
        try:
            for token in self.tokens:
                await self.store.nack(token, reason, details)
        except DATABASE_AWAY as away:
            # Not renewed any more, so the lease runs out and the events come again.
            self.store.settled(*self.tokens)
            logfire.warn("A failure was not recorded: {error}", error=repr(away))


def _unavailable(error: BaseException) -> Unavailable | None:
    """Return what says that something outside is away, also from within a group of tasks."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return next(filter(None, map(_unavailable, group.exceptions)), None)
    return error if isinstance(error, Unavailable) else None
