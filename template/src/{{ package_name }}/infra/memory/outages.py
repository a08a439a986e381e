"""Defers the events of decisions that an unavailable dependency prevents, while other decisions go on."""

from collections.abc import Generator
from typing import cast

import logfire
from pydantic_ai.exceptions import ModelAPIError

from ...core.units import Seconds
from ..model.breaker import Unavailable
from ..model.causes import advice, cause_of, retry_after_of
from ..store import EventStore, Token
from ..waits import bounded

MIN_WAIT: Seconds = 0.1  # prevents a busy loop if the dependency asks for a wait of 0 s
PAUSE_EVERY = 32  # failed decisions in a row, the default prefetch: little else can be due then
FIRST_ROW_PAUSE: Seconds = 0.1  # of claims, after a row of failed decisions
UNGUARDED_WAIT: Seconds = 5.0  # for a model without a circuit breaker
MAX_ROW_PAUSE: Seconds = 1.0  # also delays events that need no dependency


# A missing answer counts as an outage. But a provider that answers other events may fail on this one's content.
# After this many waits, between which it answered others, the event spends its attempts. There is no limit while it
# answers no event, nor for other outages, since their cause is then unknown.
MAX_UNANSWERED_WAITS = 10
MAX_TRACKED_EVENTS = 1_000  # events


class OutageDeferrals:
    """Defers the events and scopes of decisions that raised `Unavailable`, for one subscriber.

    If all decisions fail, it also pauses claims for a moment. A backlog would otherwise be claimed and released in
    a loop.
    """

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._in_a_row = 0
        self._unanswered: dict[int, tuple[int, int]] = {}
        """By `seq`: the number of waits, and the provider's number of answers at the last one."""

    def reset(self) -> None:
        """Record a decision that succeeded, which ends the row of failures."""
        self._in_a_row = 0

    def should_wait(self, outage: Unavailable, tokens: tuple[Token, ...]) -> bool:
        """Return whether to wait; False if the provider answers other events but not these."""
        if outage.answers is None or not tokens:
            return True
        seq = tokens[0].seq
        waits, answers = self._unanswered.pop(seq, (0, outage.answers))
        if len(self._unanswered) >= MAX_TRACKED_EVENTS:
            del self._unanswered[next(iter(self._unanswered))]
        others = outage.answers > answers
        self._unanswered[seq] = (waits + others, outage.answers)
        return not others or waits < MAX_UNANSWERED_WAITS

    async def wait(self, outage: Unavailable, tokens: tuple[Token, ...]) -> None:
        """Defer deliveries without spending an attempt, until the dependency may be available."""
        seconds = max(bounded(outage.retry_in, self._store.longest_wait), MIN_WAIT)
        log = logfire.debug if self._in_a_row else logfire.warn
        log("Waiting {seconds} s: {reason}", seconds=seconds, reason=str(outage))
        self._in_a_row += 1
        for scope in {token.scope for token in tokens}:
            self._store.failed_decisions.add(scope, str(outage), seconds)
        await self._store.queue.defer(*tokens, seconds=seconds)
        rounds, rest = divmod(self._in_a_row, PAUSE_EVERY)
        if not rest:
            self._store.pause(min(FIRST_ROW_PAUSE * 2 ** min(rounds - 1, 10), MAX_ROW_PAUSE))


def find_outage(error: BaseException) -> Unavailable | None:
    """Return the transient failure of a dependency within an error or its exception groups, or None.

    An agent that runs with its own model raises its provider's error, which counts, too.
    """
    return next(filter(None, map(_as_outage, _leaves(error))), None)


def _leaves(error: BaseException) -> Generator[BaseException]:
    """Yield the errors within nested exception groups, in order and each once, without recursion."""
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
        return Unavailable(f"{reason} ({error})", retry_after_of(error) or UNGUARDED_WAIT)
    return error if isinstance(error, Unavailable) else None
