"""The block of a decision: the scope's lock, its context, and the time limit."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType

from ...core.context import DecisionContext
from ...core.units import Scope
from ..database import DatabaseUnavailable, was_database_wait
from ..telemetry.tracing import current_decision
from .deadlines import Deadlines


class ContextBlock:
    """The block of `Memory.open`: a class, since a generator would take longer than most decisions."""

    def __init__(
        self,
        scope: Scope,
        turn: AbstractAsyncContextManager[None],
        deadlines: Deadlines,
        load: Callable[[Scope], Awaitable[DecisionContext]],
        close: Callable[[Scope, bool], None],
    ) -> None:
        """Prepare the block; `close` gets the scope and whether the block failed."""
        self._scope = scope
        self._turn = turn
        self._deadlines = deadlines
        self._load = load
        self._close = close

    async def __aenter__(self) -> DecisionContext:
        """Acquire the lock and load the context."""
        await self._turn.__aenter__()
        self._deadline = self._deadlines.start()
        await self._deadline.__aenter__()
        try:
            context = await self._load(self._scope)
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        if decision := current_decision():
            decision.filter_starts()
        return context

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Release the lock.

        Raises:
            TimeoutError: the decision exceeded its time limit.
            DatabaseUnavailable: it did so while it waited for the database.
        """
        try:
            await self._deadline.__aexit__(kind, error, trace)
        except TimeoutError as timeout:
            limit = self._deadlines.limit
            message = f"the decision took longer than {limit:g} s"
            if was_database_wait(timeout.__cause__):
                raise DatabaseUnavailable(f"{message}, and waited for it at the end") from timeout
            raise TimeoutError(message) from timeout
        finally:
            self._deadlines.end(self._deadline)
            self._close(self._scope, error is not None)
            await self._turn.__aexit__(kind, error, trace)
