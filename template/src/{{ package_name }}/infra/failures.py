"""What becomes of events whose decision failed: released unspent, or settled as failed.

However a block of `Memory.settling` ends, its deliveries end released, settled as failed, or with a
lease that is renewed no longer. What must not happen is that a loop's task ends and its deliveries stay
in flight, so only the service's own stop gets through: any other cancellation is the event's failure.
"""

import asyncio
import traceback
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, cast

import logfire

from ..core.types import Seconds
from .database import DATABASE_AWAY, is_unavailable
from .locks import ScopeBusy
from .store import EventStore, ScopeMoved, Token
from .store.subscription import Subscription
from .text import describe
from .tracing import note
from .waiting import Waiting, find_outage

BUSY_DELAY: Seconds = 0.2  # long enough to let others in, short enough not to be noticed
DEEPEST = 100  # causes and groups within each other: a deeper error is logged without its traceback
TRACEBACK_MOST = 100_000  # characters: longer ones are cut, and not logged
SETTLE_TIMEOUT: Seconds = 10.0  # beyond it a failure goes on being settled, but nobody waits for it


@dataclass
class Settling:
    """The block of `Memory.settling`: a class, since a generator would cost more than most decisions."""

    store: EventStore
    tokens: tuple[Token, ...]
    waiting: Waiting
    _task: "asyncio.Task[Any] | None" = field(default=None, init=False)
    _consumer: Subscription | None = field(default=None, init=False)
    _cancelled_before: int = field(default=0, init=False)

    async def __aenter__(self) -> None:
        """Begin the block, unless its task is being stopped."""
        self._consumer = self.store.consumer_of(*self.tokens)
        self._task = task = asyncio.current_task()
        self._cancelled_before = task.cancelling() if task else 0
        if self._cancelled_before and self._consumer and self._is_own_stop():
            raise asyncio.CancelledError
        self.store.begun(*self.tokens)

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        """Settle what failed. Only a stop of the service, or of its loop, gets through."""
        try:
            if error is None:
                self.waiting.over()
                return False
            if self._task is None or self._task is not _current_task():
                return False  # the block did not end: its coroutine was thrown away
            return await self._end(error)
        finally:
            self.store.ended(*self.tokens)

    async def _end(self, error: BaseException) -> bool:
        if self._cancellations() and self._is_own_stop():
            await self._finish(self.store.release(*self.tokens))
            return _go_on_ending(error)
        if not isinstance(error, Exception) and self._consumer and self._consumer.is_stopping:
            await self._finish(self.store.release(*self.tokens))
        else:
            await self._finish(self._settle(error))
        if not (cancellations := self._cancellations()):
            return True
        if self._is_own_stop() or (self._consumer and self._consumer.consumer is self._task):
            return _go_on_ending(error)
        task = cast("asyncio.Task[Any]", self._task)
        # Other code cancelled it for this event, and the task has others to handle.
        for _ in range(cancellations):
            task.uncancel()
        return True

    def _cancellations(self) -> int:
        """Return how often this task was cancelled since the block began, and that is not over."""
        return self._task.cancelling() - self._cancelled_before if self._task else 0

    def _is_own_stop(self) -> bool:
        """Tell whether a cancelled block belongs to a service, or to a loop, that ends.

        For deliveries that no subscription has, any cancellation counts as that.
        """
        consumer = self._consumer
        if consumer is None or consumer.is_stopping:
            return True
        return consumer.consumer is not self._task and consumer.is_ending

    async def _finish(self, work: Coroutine[Any, Any, None]) -> None:
        """Do this to its end, although the task may be cancelled meanwhile."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + SETTLE_TIMEOUT
        settling = self.store.background.start(work, "settling a failure")
        while not settling.done() and (left := deadline - clock()) > 0:
            try:
                await asyncio.wait([settling], timeout=left)
            except asyncio.CancelledError:
                continue  # `cancelling` keeps count of it

    async def _settle(self, error: BaseException) -> None:
        try:
            await self._settle_as(error)
        except DATABASE_AWAY as outage:
            # Not renewed any more, so the lease runs out and the events come again.
            self.store.settled(*self.tokens)
            logfire.warn("A failure was not recorded: {error}", error=repr(outage))
        except Exception as other:  # of the error's own making, such as a thousand causes
            logfire.error("A failure was not recorded: {error}", error=describe(other))
            await self._settle_without(error, other)

    async def _settle_without(self, error: BaseException, other: Exception) -> None:
        """Settle as failed what failed with an error that cannot be described."""
        reason = f"{type(error).__name__} (to record it raises {type(other).__name__})"
        try:
            for token in self.tokens:
                await self.store.nack(token, reason)
        except Exception as again:
            self.store.settled(*self.tokens)
            logfire.error("A failure was not recorded: {error}", error=describe(again))

    async def _settle_as(self, error: BaseException) -> None:
        if isinstance(error, ScopeBusy):
            note(outcome="handed back")
            await self.store.pass_on(error.scope, *self.tokens, seconds=BUSY_DELAY)
        elif isinstance(error, ScopeMoved):
            note(outcome="handed back")
            logfire.debug("Handed back: {reason}", reason=str(error))
            await self.store.hand_back(*self.tokens, delay=BUSY_DELAY)
        elif (outage := find_outage(error)) and self.waiting.helps(outage, self.tokens):
            await self.waiting.wait(outage, self.tokens)
        elif is_unavailable(error):
            logfire.warn("Waiting for the database: {reason}", reason=describe(error))
            await self.store.outlast(*self.tokens)
        else:
            details = _traceback_of(error)
            brief = len(details) <= TRACEBACK_MOST and not _is_deep(error)
            said = describe(error)
            logfire.error(
                "Decision failed: {error}", error=said, _exc_info=error if brief else None
            )
            await self._nack(error, details if brief else f"... {details[-TRACEBACK_MOST:]}")

    async def _nack(self, error: BaseException, details: str) -> None:
        for token in self.tokens:
            await self.store.nack(token, _in_words(error), details)


def _go_on_ending(error: BaseException) -> bool:
    """Let a cancellation through, whatever the cancelled code made of it.

    Raises:
        asyncio.CancelledError: the code replaced it by another error.
    """
    if isinstance(error, asyncio.CancelledError):
        return False
    raise asyncio.CancelledError from error


def _current_task() -> "asyncio.Task[Any] | None":
    try:
        return asyncio.current_task()
    except RuntimeError:  # no event loop runs: the coroutine is being thrown away
        return None


def _traceback_of(error: BaseException) -> str:
    """Return an error's traceback; without what is behind it if that is nested too deeply to be written."""
    try:
        return "".join(traceback.format_exception(error))
    except RecursionError:
        return "".join([*traceback.format_tb(error.__traceback__), describe(error)])


def _is_deep(error: BaseException) -> bool:
    """Tell whether so much is behind an error that telemetry, which walks it recursively, would fail."""
    level, seen = [error], {id(error)}
    for _ in range(DEEPEST):
        behind: list[BaseException | None] = []
        for each in level:
            behind += [each.__cause__, each.__context__]
            if isinstance(each, BaseExceptionGroup):
                behind += cast("BaseExceptionGroup[BaseException]", each).exceptions
        new = {id(each): each for each in behind if each is not None and id(each) not in seen}
        level, seen = list(new.values()), seen | new.keys()
        if not level:
            return False
    return True


def _in_words(error: BaseException) -> str:
    if isinstance(error, asyncio.CancelledError):
        return "CancelledError: other code cancelled the decision, or what it awaited"
    return describe(error)
