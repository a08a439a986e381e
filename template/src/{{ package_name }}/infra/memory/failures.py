"""Settles the events of a failed decision: releases them, or nacks them.

However a block of `Memory.settling` ends, its deliveries are acked, released, nacked, or their leases are no longer
renewed. A loop's task must not end while its deliveries stay in flight. So the block propagates a cancellation only
if the service or the loop stops; any other cancellation counts as a failure of the event.
"""

import asyncio
import traceback
from collections.abc import Coroutine
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, cast

import logfire

from ...core.units import Seconds
from ..database import DATABASE_UNAVAILABLE, is_unavailable
from ..locks import ScopeBusy
from ..store import Consumer, EarlierEventPending, EventStore, ScopeMoved, Token
from ..store.scopes import DecisionPending
from ..telemetry.tracing import note
from ..text import describe
from .outages import OutageDeferrals, find_outage

EARLIER_EVENT_DELAY: Seconds = 0.02  # before the scope is claimed again
BUSY_DELAY: Seconds = 0.2  # long enough for another worker's turn, short enough not to be noticed
MAX_CAUSE_DEPTH = 100  # nested causes and groups; a deeper error is logged without its traceback
MAX_TRACEBACK_LENGTH = 100_000  # characters; a longer one is cut, and not logged
SETTLE_TIMEOUT: Seconds = 10.0  # then a failure is settled in the background


_handling: ContextVar[tuple[Token, ...]] = ContextVar("handling", default=())
_left_out: ContextVar[tuple[Token, ...]] = ContextVar("left_out", default=())


def handling() -> tuple[Token, ...]:
    """Return the tokens of the current block of `Memory.settling`."""
    return _handling.get()


def leave_out(tokens: tuple[Token, ...]) -> None:
    """Release these deliveries at the end of the block: they wait for an unfinished decision, which it continues."""
    _left_out.set(tokens)


@dataclass
class Settling:
    """The block of `Memory.settling`."""

    store: EventStore
    tokens: tuple[Token, ...]
    outages: OutageDeferrals
    _task: "asyncio.Task[Any] | None" = field(default=None, init=False)
    _consumer: Consumer | None = field(default=None, init=False)
    _cancelled_before: int = field(default=0, init=False)

    async def __aenter__(self) -> None:
        """Start the block.

        Raises:
            asyncio.CancelledError: the service or the loop stops.
        """
        self._consumer = self.store.queue.consumer_of(*self.tokens)
        self._task = task = asyncio.current_task()
        self._cancelled_before = task.cancelling() if task else 0
        if self._cancelled_before and self._consumer and self._is_shutdown():
            raise asyncio.CancelledError
        _handling.set(self.tokens)
        _left_out.set(())
        self.store.queue.handler_started(*self.tokens)

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        """Settle the deliveries if the block failed; propagate only a stop of the service or its loop."""
        try:
            if error is None:
                self.outages.reset()
                if left_out := _left_out.get():
                    await self._run_to_completion(self.store.release(*left_out))
                return False
            if self._task is None or self._task is not _current_task():
                return False  # the coroutine was discarded in the middle of the block
            return await self._settle_failed_block(error)
        finally:
            _handling.set(())
            _left_out.set(())
            self.store.queue.handler_ended(*self.tokens)

    async def _settle_failed_block(self, error: BaseException) -> bool:
        if self._cancellations() and self._is_shutdown():
            await self._run_to_completion(self.store.release(*self.tokens))
            return _propagate_cancellation(error)
        if not isinstance(error, Exception) and self._consumer and self._consumer.is_stopping:
            await self._run_to_completion(self.store.release(*self.tokens))
        else:
            await self._run_to_completion(self._settle(error))
        if not (cancellations := self._cancellations()):
            return True
        if self._is_shutdown() or (self._consumer and self._consumer.task is self._task):
            return _propagate_cancellation(error)
        task = cast("asyncio.Task[Any]", self._task)
        # Other code cancelled this decision only: the task has other events to handle.
        for _ in range(cancellations):
            task.uncancel()
        return True

    def _cancellations(self) -> int:
        """Return the number of pending cancellations of this task since the block started."""
        return self._task.cancelling() - self._cancelled_before if self._task else 0

    def _is_shutdown(self) -> bool:
        """Return whether the service or the loop stops.

        If no consumer has the deliveries, any cancellation counts as a stop.
        """
        consumer = self._consumer
        if consumer is None or consumer.is_stopping:
            return True
        return consumer.task is not self._task and consumer.is_ending

    async def _run_to_completion(self, work: Coroutine[Any, Any, object]) -> None:
        """Run `work` to its end, or wait `SETTLE_TIMEOUT` for it, despite cancellations of this task."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + SETTLE_TIMEOUT
        settling = self.store.queue.background.start(work, "settling a failure")
        while not settling.done() and (left := deadline - clock()) > 0:
            try:
                await asyncio.wait([settling], timeout=left)
            except asyncio.CancelledError:
                continue  # `cancelling()` counts it

    async def _settle(self, error: BaseException) -> None:
        if left_out := _left_out.get():
            self.tokens = tuple(token for token in self.tokens if token not in left_out)
            await self.store.release(*left_out)
        try:
            await self._settle_as(error)
        except DATABASE_UNAVAILABLE as outage:
            # Their leases are no longer renewed: they expire, and the events are claimed again.
            self.store.queue.settled(self.tokens)
            logfire.warn("A failure was not recorded: {error}", error=repr(outage))
        except Exception as other:  # caused by the error itself, such as a thousand causes
            logfire.error("A failure was not recorded: {error}", error=describe(other))
            await self._settle_undescribable(error, other)

    async def _settle_undescribable(self, error: BaseException, other: Exception) -> None:
        """Nack the deliveries with a plain reason, since their error cannot be described."""
        reason = f"{type(error).__name__} (recording it raises {type(other).__name__})"
        try:
            for token in self.tokens:
                await self.store.nack(token, reason)
        except Exception as again:
            self.store.queue.settled(self.tokens)
            logfire.error("A failure was not recorded: {error}", error=describe(again))

    async def _settle_as(self, error: BaseException) -> None:
        if isinstance(error, ScopeBusy):
            note(outcome="released")
            await self.store.defer_scope(error.scope, *self.tokens, seconds=BUSY_DELAY)
        elif isinstance(error, EarlierEventPending):
            scope, wait = error.scope, error.seconds
            await self.store.defer_scope(
                scope, *self.tokens, seconds=EARLIER_EVENT_DELAY, delay=wait
            )
        elif isinstance(error, DecisionPending):
            note(outcome="released")
            await self.store.release(*self.tokens, delay=error.seconds)
        elif isinstance(error, ScopeMoved):
            note(outcome="released")
            logfire.debug("Released: {reason}", reason=str(error))
            await self.store.release(*self.tokens, delay=BUSY_DELAY)
        elif (outage := find_outage(error)) and self.outages.should_wait(outage, self.tokens):
            await self.outages.wait(outage, self.tokens)
        elif is_unavailable(error):
            logfire.warn("Waiting for the database: {reason}", reason=describe(error))
            await self.store.queue.release_when_available(*self.tokens)
        else:
            details = _traceback_of(error)
            brief = len(details) <= MAX_TRACEBACK_LENGTH and not _is_deep(error)
            message = describe(error)
            logfire.error(
                "Decision failed: {error}", error=message, _exc_info=error if brief else None
            )
            await self._nack(error, details if brief else f"... {details[-MAX_TRACEBACK_LENGTH:]}")

    async def _nack(self, error: BaseException, details: str) -> None:
        for token in self.tokens:
            self.store.failed_decisions.add(token.scope, _describe(error))
            await self.store.nack(token, _describe(error), details)


def _propagate_cancellation(error: BaseException) -> bool:
    """Propagate a cancellation: return False, or raise it if the code raised another error instead.

    Raises:
        asyncio.CancelledError: the code replaced the cancellation by another error.
    """
    if isinstance(error, asyncio.CancelledError):
        return False
    raise asyncio.CancelledError from error


def _current_task() -> "asyncio.Task[Any] | None":
    try:
        return asyncio.current_task()
    except RuntimeError:  # no event loop runs: the coroutine is being discarded
        return None


def _traceback_of(error: BaseException) -> str:
    """Return an error's traceback, without its causes if those are nested too deeply to be formatted."""
    try:
        return "".join(traceback.format_exception(error))
    except RecursionError:
        return "".join([*traceback.format_tb(error.__traceback__), describe(error)])


def _is_deep(error: BaseException) -> bool:
    """Return whether an error has so many nested causes that telemetry's recursion would fail."""
    level, seen = [error], {id(error)}
    for _ in range(MAX_CAUSE_DEPTH):
        causes: list[BaseException | None] = []
        for each in level:
            causes += [each.__cause__, each.__context__]
            if isinstance(each, BaseExceptionGroup):
                causes += cast("BaseExceptionGroup[BaseException]", each).exceptions
        new = {id(each): each for each in causes if each is not None and id(each) not in seen}
        level, seen = list(new.values()), seen | new.keys()
        if not level:
            return False
    return True


def _describe(error: BaseException) -> str:
    if isinstance(error, asyncio.CancelledError):
        return "CancelledError: other code cancelled the decision, or what it awaited"
    return describe(error)
