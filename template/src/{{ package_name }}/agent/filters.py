"""Filters: functions that return whether an event enters the context.

They must be fast and without I/O. An event that a filter refuses is acked and not evaluated again.
"""

from collections.abc import Callable, Iterable

from ..core.context import DecisionContext
from ..core.events import Event
from ..core.types import Filter, Seconds

UNSEARCHED = {"id", "timestamp", "source", "scope", "meta"}  # names and times, not content


def keyword_filter(keywords: list[str]) -> Filter:
    """Pass events with a value, their type included, that contains one of the keywords in any case."""
    wanted = [word.lower() for word in keywords]

    def check(event: Event, ctx: DecisionContext) -> bool:
        texts = [text.lower() for text in _values(event.model_dump(exclude=UNSEARCHED))]
        return any(word in text for word in wanted for text in texts)

    return check


def event_type_filter(*types: str) -> Filter:
    """Pass events of these types."""

    def check(event: Event, ctx: DecisionContext) -> bool:
        return event.type in types

    return check


def rate_limit_filter(max_per_window: int, window_seconds: Seconds = 60) -> Filter:
    """Pass at most `max_per_window` events of a scope in `window_seconds`, acted on or not.

    Combine it by `all_filters`: within `any_filter`, another filter may pass the event.
    """

    def check(event: Event, ctx: DecisionContext) -> bool:
        return len(ctx.recent(window_seconds)) < max_per_window

    return check


def dedupe_filter(key_fn: Callable[[Event], str], window_seconds: Seconds = 60) -> Filter:
    """Pass an event unless one with the same key passed in the last `window_seconds`."""

    def check(event: Event, ctx: DecisionContext) -> bool:
        return key_fn(event) not in {key_fn(seen) for seen in ctx.recent(window_seconds)}

    return check


def all_filters(*filters: Filter) -> Filter:
    """Pass events that all of these filters pass."""

    def check(event: Event, ctx: DecisionContext) -> bool:
        return all(passes(event, ctx) for passes in filters)

    return check


def any_filter(*filters: Filter) -> Filter:
    """Pass events that at least one of these filters passes."""

    def check(event: Event, ctx: DecisionContext) -> bool:
        return any(passes(event, ctx) for passes in filters)

    return check


def _values(value: object) -> Iterable[str]:
    """Yield the nested values as text, without the names of fields."""
    if isinstance(value, dict):
        for item in value.values():  # pyright: ignore[reportUnknownVariableType] - any JSON
            yield from _values(item)  # pyright: ignore[reportUnknownArgumentType] - any JSON
    elif isinstance(value, list):
        for item in value:  # pyright: ignore[reportUnknownVariableType] - any JSON
            yield from _values(item)  # pyright: ignore[reportUnknownArgumentType] - any JSON
    elif value is not None:
        yield str(value)
