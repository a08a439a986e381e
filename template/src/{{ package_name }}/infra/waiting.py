"""Decisions that something outside keeps from being taken: their events wait, and the others go on."""

from collections.abc import Generator
from typing import cast

import logfire
from pydantic_ai.exceptions import ModelAPIError

from ..core.types import Seconds
from .breaker import Unavailable
from .causes import advice, asked_wait, cause_of
from .store import EventStore, Token
from .waits import bounded

SHORTEST: Seconds = 0.1  # so that "at once", or a time that is past, is no busy loop
IN_A_ROW = 32  # decisions that a loop prefetches by default: as many show that little else is due
FIRST_PAUSE: Seconds = 0.1
UNGUARDED_WAIT: Seconds = 5.0  # for a model without a breaker, which would know for how long
LONGEST_PAUSE: Seconds = 1.0  # events that need nothing from outside wait for this as well


# An answer that is none is an outage. A provider that answers others, and never this event, may stumble over
# its content: after so many waits, between which it answered others, the event spends its attempts.
# While it answers nobody there is no such limit, and none for other outages: nothing tells whose fault it is.
UNANSWERED_MOST = 10
REMEMBERED = 1_000  # events


class Waiting:
    """The decisions of one subscriber in this process that ended with `Unavailable`.

    Each one's events and its scope are deferred, so that nothing of it is claimed only to be returned.
    While all that is claimed waits, claiming pauses for a moment, or a backlog would go round and round.
    """

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._in_a_row = 0
        self._unanswered: dict[int, tuple[int, int]] = {}
        """By event: how many waits there were, and how many answers before the last."""

    def over(self) -> None:
        """Note that a decision was taken."""
        self._in_a_row = 0

    def helps(self, outage: Unavailable, tokens: tuple[Token, ...]) -> bool:
        """Tell whether to wait; if not, the outage concerns these events alone."""
        if outage.answers is None or not tokens:
            return True
        seq = tokens[0].seq
        waits, answers = self._unanswered.pop(seq, (0, outage.answers))
        if len(self._unanswered) >= REMEMBERED:
            del self._unanswered[next(iter(self._unanswered))]
        others = outage.answers > answers
        self._unanswered[seq] = (waits + others, outage.answers)
        return not others or waits < UNANSWERED_MOST

    async def wait(self, outage: Unavailable, tokens: tuple[Token, ...]) -> None:
        """Return deliveries unspent, to be claimed again when the dependency may answer."""
        seconds = max(bounded(outage.retry_in, self._store.longest_wait), SHORTEST)
        log = logfire.debug if self._in_a_row else logfire.warn
        log("Waiting {seconds} s: {reason}", seconds=seconds, reason=str(outage))
        self._in_a_row += 1
        await self._store.defer(*tokens, seconds=seconds)
        rounds, rest = divmod(self._in_a_row, IN_A_ROW)
        if not rest:
            self._store.pause(min(FIRST_PAUSE * 2 ** min(rounds - 1, 10), LONGEST_PAUSE))


def find_outage(error: BaseException) -> Unavailable | None:
    """Return the failure of something outside that is worth waiting for, also from a group of tasks.

    An agent that runs with a model of its own raises what its provider said: that counts, too.
    """
    return next(filter(None, map(_as_outage, _leaves(error))), None)


def _leaves(error: BaseException) -> Generator[BaseException]:
    """Yield the errors of groups within groups, in order and each once, however deep they are."""
    left, seen = [error], {id(error)}
    while left:
        each = left.pop()
        if not isinstance(each, BaseExceptionGroup):
            yield each
            continue
        inner = cast("BaseExceptionGroup[BaseException]", each).exceptions
        new = {id(one): one for one in inner if id(one) not in seen}
        seen |= new.keys()
        left += reversed(new.values())


def _as_outage(error: BaseException) -> Unavailable | None:
    if isinstance(error, ModelAPIError) and cause_of(error):
        reason = advice(error, error.model_name, "its name in agent/")
        return Unavailable(f"{reason} ({error})", asked_wait(error) or UNGUARDED_WAIT)
    return error if isinstance(error, Unavailable) else None
