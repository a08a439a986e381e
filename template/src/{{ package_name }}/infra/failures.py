"""What becomes of events whose decision failed: handed back unspent, or settled as failed."""

import traceback
from dataclasses import dataclass

import logfire

from ..core.types import Seconds
from .database import DATABASE_AWAY
from .locks import ScopeBusy
from .store import EventStore, ScopeMoved, Token
from .waiting import Waiting, unavailable

BUSY_DELAY: Seconds = 0.2  # long enough to let others in, short enough not to be noticed


@dataclass
class Settling:
    """The block of `Memory.settling`: a class, since a generator would cost more than most decisions."""

    store: EventStore
    tokens: tuple[Token, ...]
    waiting: Waiting

    async def __aenter__(self) -> None:
        """Begin the block."""

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        """Settle what failed; what is cancelled is handed back by the subscription."""
        if error is None:
            self.waiting.over()
        if not isinstance(error, Exception):
            return False
        if isinstance(error, ScopeBusy):
            await self.store.pass_on(error.scope, *self.tokens, seconds=BUSY_DELAY)
        elif isinstance(error, ScopeMoved):
            logfire.debug("Handed back: {reason}", reason=str(error))
            await self.store.hand_back(*self.tokens, delay=BUSY_DELAY)
        elif away := unavailable(error):
            await self.waiting.wait(away, self.tokens)
        else:
            logfire.error("Decision failed: {error}", error=repr(error), _exc_info=error)
            await self._nack(error)
        return True

    async def _nack(self, error: Exception) -> None:
        details = "".join(traceback.format_exception(error))
        reason = f"{type(error).__name__}: {error}"
        try:
            for token in self.tokens:
                await self.store.nack(token, reason, details)
        except DATABASE_AWAY as away:
            # Not renewed any more, so the lease runs out and the events come again.
            self.store.settled(*self.tokens)
            logfire.warn("A failure was not recorded: {error}", error=repr(away))
