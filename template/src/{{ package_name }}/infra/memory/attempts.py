"""Gives each attempt at a decision its journal, and ends it: by an action, a drop, a hold, or a failure."""

from functools import partial

from ...core.units import Scope
from ..store import EventStore
from ..store.decision_journal import (
    Attempt,
    DecisionJournal,
    current_journal,
    set_current_journal,
)
from ..telemetry.tracing import note
from .cache import CacheEntry, ContextCache
from .commits import BackgroundCommits
from .failures import handling


class Attempts:
    """The attempts at decisions of one subscriber; each has its own journal while its trigger runs."""

    def __init__(self, store: EventStore, cache: ContextCache, commits: BackgroundCommits) -> None:
        self._store = store
        self._cache = cache
        self._commits = commits

    def begin(self, known: CacheEntry) -> str:
        """Return the id of the decision's action; open its journal, and stop the clock of its context."""
        action_id = known.next_action_id(self._store.subscriber)
        current, context = current_journal(), known.context
        if current is not None and current.action_id == action_id and not current.is_over:
            return action_id  # the loop asks again
        scope, pin = context.scope, known.pin
        begun_at = self._store.now() if pin is None else pin.begun_at
        context.stop_clock(begun_at)
        tokens = tuple(sorted(token for token in handling() if token.scope == scope))
        if len(tokens) > 1:  # of a batch, the filter may have refused some
            seen = {event.seq for event in context.events}
            tokens = tuple(token for token in tokens if token.seq in seen)
        # Without a block of `Memory.settling`, a stale worker could not be told from this one.
        if tokens:
            attempt = Attempt(scope, known.version, action_id, begun_at, known.held, tokens)
            wait = partial(self._commits.wait, scope)
            pinned = pin is not None
            set_current_journal(
                DecisionJournal(self._store.journal, attempt, known.entries, wait, pinned=pinned)
            )
        return action_id

    def close(self, scope: Scope) -> None:
        """End the attempt of a block; a pinned decision that neither acted nor held leaves no cached context."""
        journal, known = current_journal(), self._cache.get(scope)
        pinned = journal is not None and journal.pinned and not journal.is_over
        if journal is not None:
            journal.stop()
            set_current_journal(None)
        if known is not None:
            known.context.resume()
            if pinned or known.pin is not None:
                self._cache.invalidate(scope)


def end_attempt(known: CacheEntry) -> bool:
    """Stop the journal of a decision that acts, drops or holds, and let its clock go on.

    Returns whether the decision is pinned, so that its end must delete the pin.
    """
    journal = current_journal()
    known.context.resume()
    if journal is None:
        return known.pin is not None
    journal.stop()
    if journal.replayed:
        note(replayed=journal.replayed)
    return journal.pinned or known.pin is not None
