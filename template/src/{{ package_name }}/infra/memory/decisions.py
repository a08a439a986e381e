"""Commits the decisions that settle a context's events: an action, or a drop."""

from collections.abc import Sequence
from datetime import datetime

from ...core.context import DecisionContext
from ...core.events import ActionEvent, AgentDroppedEvent, Event
from ...core.outcomes import Act, Drop
from ..locks import ScopedLocks
from ..store import EventStore, Token
from ..store.scopes import NO_NOTES, DecidedDrop, OnAction, write_notes
from ..telemetry.spans import step
from ..telemetry.tracing import current_decision, note
from ..text import jsonable, shorten, storable
from .attempts import end_attempt
from .cache import CacheEntry, ContextCache
from .commits import BackgroundCommits
from .limits import ScopeLimits
from .trimming import newest_events, total_weight

MAX_REASON_BYTES = 10_000  # of a drop; a longer reason is cut


class Decisions:
    """Commits actions and drops on the contexts of one subscriber."""

    def __init__(
        self,
        store: EventStore,
        locks: ScopedLocks,
        cache: ContextCache,
        commits: BackgroundCommits,
        limits: ScopeLimits,
        on_action: OnAction | None,
    ) -> None:
        self._store = store
        self._locks = locks
        self._cache = cache
        self._commits = commits
        self._limits = limits
        self._on_action = on_action

    async def act(
        self, context: DecisionContext, tokens: tuple[Token, ...], outcome: Act
    ) -> ActionEvent:
        """Act on all events of the context, and clear it.

        Raises:
            ScopeMoved: another worker changed the scope meanwhile; nothing was written.
            ScopeBusy: the scope's lock was lost, and another worker has it; nothing was written.
        """
        known, size = self._cache.entry_of(context), len(context.events)
        tokens, decided_at = known.own(tokens), context.now()
        weight = total_weight(newest_events(context.events, tokens))
        journaled = end_attempt(known)
        await self._begin(context, outcome.trigger)
        action = self._action(known, tokens, outcome, decided_at)
        seen = {event.seq for event in context.events}
        held = [token for token in known.held.values() if token.seq in seen]
        if len(held) < len(
            known.held
        ):  # the trigger removed events from the context: they stay held
            self._cache.invalidate(context.scope)
        with step("store.act", action_id=action.id, covers=len(held) + len(tokens)):
            await self._store.scopes.act(
                action, known.version, held, tokens, self._on_action, journaled=journaled
            )
        self._store.failed_decisions.end(context.scope)
        note(outcome="acted", size=size, action_id=action.id)
        context.clear()
        context.forget(self._store.settings.context_recent)
        known.version += 1
        known.held, known.scratch, known.wake_at, known.pin = {}, NO_NOTES, None, None
        self._limits.add(known, weight)
        return action

    async def drop(
        self, context: DecisionContext, tokens: tuple[Token, ...], trigger: str, outcome: Drop
    ) -> AgentDroppedEvent:
        """Drop events of the context, hold the others, and return the event that records it.

        The trigger is evaluated again for the others, as if a wait had ended.

        Raises:
            ScopeMoved: another worker changed the scope meanwhile; nothing was written.
            ScopeBusy: the scope's lock was lost, and another worker has it; nothing was written.
            ValueError: an event to drop is not in the context, or there is none.
        """
        known, size = self._cache.entry_of(context), len(context.events)
        tokens = known.own(tokens)
        seqs = _seqs_to_drop(context, outcome.events)
        in_flight = {token.seq: token for token in tokens}
        owned = {**known.held, **in_flight}
        dropped = [token for seq, token in owned.items() if seq in seqs]
        kept = [token for seq, token in in_flight.items() if seq not in seqs]
        left = {seq: token for seq, token in owned.items() if seq not in seqs}
        scratch = write_notes(context.scratch) if context.scratch else NO_NOTES
        reason = shorten(storable(outcome.reason), MAX_REASON_BYTES)
        ends = known.next_action_id(self._store.subscriber) if end_attempt(known) else None
        await self._begin(context, trigger)
        weights = {event.seq: event.stored_weight for event in context.events}
        change = sum(weights.get(token.seq, 0) for token in kept)
        change -= sum(weights.get(seq, 0) for seq in known.held if seq in seqs)
        decision = DecidedDrop(
            context.scope, known.version, dropped, kept, bool(left), scratch, reason, ends
        )
        with step("store.drop", covers=len(dropped)):
            event = await self._store.scopes.drop_decided(decision, tokens)
        self._store.failed_decisions.end(context.scope)
        note(outcome="dropped", size=size)
        context.drop(seqs)
        known.version += 1
        known.held, known.scratch, known.pin = left, scratch, None
        known.wake_at = context.now() if left else None
        self._limits.add(known, change)
        return event

    async def _begin(self, context: DecisionContext, trigger: str) -> None:
        """End the trigger's span, and make sure that the decision may be committed."""
        if decision := current_decision():
            decision.trigger_ends(trigger)
        await self._commits.wait(context.scope)
        await self._locks.confirm(context.scope)

    def _action(
        self,
        known: CacheEntry,
        tokens: tuple[Token, ...],
        outcome: Act,
        decided_at: datetime,
    ) -> ActionEvent:
        events, subscriber = known.context.events, self._store.subscriber
        return ActionEvent(
            id=known.next_action_id(subscriber),
            source=f"agent:{subscriber}",
            scope=known.context.scope,
            trigger=storable(outcome.trigger),
            output=jsonable(outcome.output),
            covers=[event.id for event in events],
            notify=[storable(scope) for scope in outcome.notify],
            decided_at=decided_at,
            attempts=max((token.attempt for token in tokens), default=None),
            meta=max((event.caused() for event in events), key=lambda meta: meta.depth),
        )


def _seqs_to_drop(context: DecisionContext, events: Sequence[Event] | None) -> set[int]:
    """Return the `seq` of each event to drop."""
    known = {event.id: event.seq for event in context.events}
    ids = known if events is None else [event.id for event in events]
    if not ids:
        raise ValueError("events: there is none to drop: answer None to hold what is there")
    if strange := [each for each in ids if each not in known]:
        raise ValueError(f"events: {strange[0]!r} is not in the context: drop events of it")
    return {known[each] for each in ids}
