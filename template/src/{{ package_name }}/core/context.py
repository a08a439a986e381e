"""The working memory of a scope: the events that passed the filter since the last action.

After a crash, or on another worker, it is rebuilt from the database. Only `scratch` is stored besides the held events.
"""

from bisect import insort
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Self

from pydantic import BaseModel, Field, JsonValue, PrivateAttr, model_validator

from .events import Event, utc_now
from .prompt import MAX_PROMPT_BYTES, MIN_LINE_BYTES, SUMMARY_SHARE, block, in_json, named
from .units import Scope, Seconds

OTHER_LINES = 4  # lines of a summary above and below the events


def _position(event: Event) -> tuple[datetime, int]:
    return event.timestamp, event.seq


def _sorted(events: list[Event]) -> list[Event]:
    """Return the events in order of `(timestamp, seq)`, each id once."""
    return sorted({event.id: event for event in events}.values(), key=_position)


def _as_line(event: Event) -> str:
    details = event.model_dump_json(exclude={"id", "type", "timestamp", "meta", "scope"})
    return f"- {event.timestamp.isoformat()} {event.type} {details}"


class DecisionContext(BaseModel):
    """The context of a decision: what a trigger evaluates.

    Use `scratch` for counts, flags and notes; it must be JSON. Times are the database's.
    """

    scope: Scope
    events: list[Event] = Field(default_factory=list[Event])
    scratch: dict[str, JsonValue] = Field(default_factory=dict[str, JsonValue])
    created_at: datetime = Field(default_factory=utc_now)
    last_action_at: datetime | None = None

    _ids: set[str] = PrivateAttr(default_factory=set[str])
    """The ids of `events`, up to date after each `add`."""
    _past: list[Event] = PrivateAttr(default_factory=list[Event])
    """The events that were acted on, in order."""
    _clock: Callable[[], datetime] = PrivateAttr(default_factory=lambda: utc_now)
    """Returns the database's time. Its default has a factory, since Pydantic binds a plain function like a method."""
    _max_prompt_bytes: int = PrivateAttr(default=MAX_PROMPT_BYTES)
    _stopped_at: datetime | None = PrivateAttr(default=None)
    """What `now` returns while the clock is stopped."""
    _only: frozenset[int] | None = PrivateAttr(default=None)
    """The `seq` of each event that an unfinished decision sees; None for any."""

    @model_validator(mode="after")
    def _order(self) -> Self:
        self.events = _sorted(self.events)
        return self

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with other values for the fields in `update`; shallow unless `deep`."""
        copied = super().model_copy(update=update, deep=deep)
        copied._ids = set()  # `update` may have replaced the events
        return copied

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Copy everything except the clock, which belongs to the store and its connections."""
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
        """Build a context from a scope's held and recent events, notes and last action."""
        context = cls.model_construct(  # the store has validated the events
            scope=scope,
            events=_sorted(events),
            scratch=scratch,
            created_at=clock(),
            last_action_at=last_action_at,
        )
        held = {event.id for event in events}
        context._past = _sorted([event for event in recent if event.id not in held])
        context._clock = clock
        return context

    def __eq__(self, other: object) -> bool:
        """Compare the fields, without the clock and the events that were acted on."""
        if not isinstance(other, DecisionContext):
            return NotImplemented
        return type(self) is type(other) and all(
            getattr(self, name) == getattr(other, name) for name in type(self).model_fields
        )

    def now(self) -> datetime:
        """Return the database's time, as the store estimates it.

        While a trigger runs it stands still, and on a retry that replays recorded results it is the time of the first
        attempt: otherwise a prompt with a time would never be the same again.
        """
        return self._stopped_at or self._clock()

    def stop_clock(self, at: datetime) -> None:
        """Let `now` return this time until `resume`."""
        self._stopped_at = at

    def see_only(self, seqs: frozenset[int]) -> None:
        """Let `add` ignore other events than these until `resume`: they wait for an unfinished decision."""
        self._only = seqs

    def resume(self) -> None:
        """Let the clock go on, and `add` insert any event: the decision is over."""
        self._stopped_at = self._only = None

    def add(self, event: Event) -> None:
        """Insert an event in order of `(timestamp, seq)`, unless it is there already."""
        ids = self._ids
        if len(ids) != len(self.events):  # the list was changed directly
            ids = self._ids = {known.id for known in self.events}
        if event.id in ids or (self._only is not None and event.seq not in self._only):
            return
        ids.add(event.id)
        if not self.events or _position(self.events[-1]) < _position(event):
            self.events.append(event)  # the usual case
        else:
            insort(self.events, event, key=_position)

    def window(self, seconds: Seconds) -> list[Event]:
        """Return the context's events that were recorded in the last `seconds`."""
        since = self.now() - timedelta(seconds=seconds)
        return [event for event in self.events if event.recorded_at >= since]

    def recent(self, seconds: Seconds) -> list[Event]:
        """Return the events that passed the filter in the last `seconds`, acted on or not.

        Unlike `window`, it includes events from before the last action, as a rate limit needs.
        """
        since = self.now() - timedelta(seconds=seconds)
        return [event for event in self._all() if event.recorded_at >= since]

    def _all(self) -> list[Event]:
        """Return the events that were acted on and those that were not, in order."""
        if self._past and self.events and _position(self._past[-1]) > _position(self.events[0]):
            return sorted([*self._past, *self.events], key=_position)
        return [*self._past, *self.events]

    def forget(self, older_than: Seconds) -> None:
        """Remove from `recent` the events that were acted on and are older than `older_than` seconds."""
        since = self.now() - timedelta(seconds=older_than)
        self._past = [event for event in self._past if event.recorded_at >= since]

    def limit_recent(self, max_bytes: int) -> int:
        """Remove from `recent` the oldest events that were acted on, beyond `max_bytes`; return the bytes kept."""
        kept = 0
        for place in reversed(range(len(self._past))):
            weight = self._past[place].stored_weight
            if kept + weight > max_bytes:
                self._past = self._past[place + 1 :]
                break
            kept += weight
        return kept

    def drop(self, seqs: set[int]) -> None:
        """Remove the events with these `seq`s, because the scope holds too many."""
        self.events = [event for event in self.events if event.seq not in seqs]
        self._ids = {event.id for event in self.events}

    def of_type(self, *types: str) -> list[Event]:
        """Return the context's events of these types."""
        return [event for event in self.events if event.type in types]

    def since_last_action(self) -> list[Event]:
        """Return the events recorded after the last action, or all if there was none."""
        if self.last_action_at is None:
            return list(self.events)
        return [event for event in self.events if event.recorded_at > self.last_action_at]

    def count_by_type(self) -> dict[str, int]:
        """Return the number of the context's events by type."""
        counts: dict[str, int] = {}
        for event in self.events:
            counts[event.type] = counts.get(event.type, 0) + 1
        return counts

    def limit_prompt(self, max_bytes: int) -> None:
        """Set the most bytes of a prompt; a summary takes at most seven eighths of it."""
        self._max_prompt_bytes = max_bytes

    def summarize(self, max_events: int = 10, max_bytes: int | None = None) -> str:
        """Return the context as a block of data for a prompt, in at most `max_bytes`.

        Each event is one line, and the longest lines are cut. No text of an event, a note or the scope can end the
        block (see `core/prompt.py`). The same context returns the same text.
        """
        size = max_bytes or int(self._max_prompt_bytes * SUMMARY_SHARE)
        most = min(max_events, size // MIN_LINE_BYTES - OTHER_LINES)
        latest = self.events[-most:] if most > 0 else []
        lines = [
            f"Scope {named(self.scope)} holds {len(self.events)} events: {self.count_by_type()}."
        ]
        if latest:
            earlier = len(self.events) - len(latest)
            left_out = f" ({earlier} earlier ones are left out)" if earlier else ""
            lines.append(f"The latest {len(latest)}{left_out}:")
        lines += [_as_line(event) for event in latest]
        if self.scratch:
            lines.append(f"Notes: {in_json(self.scratch)}")
        return block(lines, size)

    def clear(self) -> None:
        """Record an action on all events of the context, and empty it for the next decision."""
        self._past = self._all()
        self.events.clear()
        self._ids.clear()
        self.scratch.clear()
        self.mark_action()

    def mark_action(self) -> None:
        """Record the time of an action, and keep the events."""
        self.last_action_at = self.now()
