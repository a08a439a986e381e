"""Working memory: the events of one scope that passed the filters since the last action.

What it holds is rebuilt from the database after a crash or on another worker, so nothing
here needs saving but `scratch`, which travels with the held events.
"""

from bisect import insort
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Self

from pydantic import BaseModel, Field, JsonValue, model_validator

from .events import Event, utc_now
from .types import Scope, Seconds


def _in_order(event: Event) -> tuple[datetime, int]:
    return event.timestamp, event.seq


def _sorted(events: list[Event]) -> list[Event]:
    """Return the events in order of `(timestamp, seq)`, each id once."""
    return sorted({event.id: event for event in events}.values(), key=_in_order)


def _insert(events: list[Event], event: Event) -> None:
    if not events or events[-1].timestamp < event.timestamp:
        events.append(event)  # as nearly all are
    else:
        insort(events, event, key=_in_order)


class DecisionContext(BaseModel):
    """What a trigger decides on.

    `scratch` is yours for counts, flags and notes; it must be JSON. Times are the database's.
    """

    scope: Scope
    events: list[Event] = Field(default_factory=list[Event])
    scratch: dict[str, JsonValue] = Field(default_factory=dict[str, JsonValue])
    created_at: datetime = Field(default_factory=utc_now)
    last_action_at: datetime | None = None

    # Cached properties, since reading Pydantic's private attributes takes longer than what is done
    # with them.

    @cached_property
    def _ids(self) -> set[str]:
        return {event.id for event in self.events}

    @cached_property
    def _past(self) -> list[Event]:
        """The events that were acted on, in order."""
        return []

    @cached_property
    def _clock(self) -> Callable[[], datetime]:
        return utc_now

    @model_validator(mode="after")
    def _order(self) -> Self:
        self.events = _sorted(self.events)
        return self

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with other values for the fields in `update`; shallow unless `deep`."""
        copied = super().model_copy(update=update, deep=deep)
        vars(copied).pop("_ids", None)  # `update` may have replaced the events
        return copied

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Copy everything but the clock: behind it is the store, with its connections."""
        return super().__deepcopy__({**(memo or {}), id(self._clock): self._clock})

    @classmethod
    def restore(
        cls,
        *,
        scope: Scope,
        events: list[Event],
        recent: list[Event],
        scratch: dict[str, JsonValue],
        last_action_at: datetime | None,
        clock: Callable[[], datetime],
    ) -> "DecisionContext":
        """Rebuild a context from what the store remembers of its scope."""
        context = cls.model_construct(
            scope=scope,
            events=_sorted(events),
            scratch=scratch,
            created_at=clock(),
            last_action_at=last_action_at,
        )
        context._past = _sorted([event for event in recent if event.id not in context._ids])
        context._clock = clock
        return context

    def now(self) -> datetime:
        """Return the store's time."""
        return self._clock()

    def add(self, event: Event) -> None:
        """Take an event in, in order of `(timestamp, seq)`; one that is there already is not doubled."""
        if len(self._ids) != len(self.events):  # somebody changed the list itself
            self._ids = {known.id for known in self.events}
        if event.id not in self._ids:
            self._ids.add(event.id)
            _insert(self.events, event)

    def window(self, seconds: Seconds) -> list[Event]:
        """Return the context's events that were recorded in the last `seconds`."""
        since = self.now() - timedelta(seconds=seconds)
        return [event for event in self.events if event.recorded_at >= since]

    def recent(self, seconds: Seconds) -> list[Event]:
        """Return what passed the filters in the last `seconds`, acted on or not.

        Unlike `window` this survives `clear`, which is what a rate limit needs.
        """
        since = self.now() - timedelta(seconds=seconds)
        return [event for event in self._all() if event.recorded_at >= since]

    def _all(self) -> list[Event]:
        """Return the events that were acted on and those that were not, in order."""
        if self._past and self.events and _in_order(self._past[-1]) > _in_order(self.events[0]):
            return sorted([*self._past, *self.events], key=_in_order)
        return [*self._past, *self.events]

    def forget(self, older_than: Seconds) -> None:
        """Drop from `recent` what was acted on and is older than so many seconds."""
        since = self.now() - timedelta(seconds=older_than)
        self._past = [event for event in self._past if event.recorded_at >= since]

    def drop(self, seqs: set[int]) -> None:
        """Let go of the events at these places of the log: the scope holds too many."""
        self._ids.difference_update([event.id for event in self.events if event.seq in seqs])
        self.events = [event for event in self.events if event.seq not in seqs]

    def of_type(self, *types: str) -> list[Event]:
        """Return the context's events of these types."""
        return [event for event in self.events if event.type in types]

    def since_last_action(self) -> list[Event]:
        """Return the events recorded after the last action, or all if there was none."""
        if self.last_action_at is None:
            return list(self.events)
        return [event for event in self.events if event.recorded_at > self.last_action_at]

    def count_by_type(self) -> dict[str, int]:
        """Return how many events of each type there are."""
        counts: dict[str, int] = {}
        for event in self.events:
            counts[event.type] = counts.get(event.type, 0) + 1
        return counts

    def summarize(self, max_events: int = 10) -> str:
        """Describe the context in words that a model can be given."""
        lines = [f"Scope {self.scope} holds {len(self.events)} events: {self.count_by_type()}."]
        if latest := self.events[-max_events:] if max_events > 0 else []:
            lines.append(f"The latest {len(latest)}:")
        for event in latest:
            details = event.model_dump_json(exclude={"id", "type", "timestamp", "meta", "scope"})
            lines.append(f"- {event.timestamp.isoformat()} {event.type} {details}")
        if self.scratch:
            lines.append(f"Notes: {self.scratch}")
        return "\n".join(lines)

    def clear(self) -> None:
        """Start the next decision: an action was taken on all of this."""
        self._past = self._all()
        self.events.clear()
        self._ids.clear()
        self.scratch.clear()
        self.mark_action()

    def mark_action(self) -> None:
        """Note that an action was taken, and keep the events."""
        self.last_action_at = self.now()
