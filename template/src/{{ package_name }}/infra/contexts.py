"""The interfaces of the contexts that `Memory` keeps; `core.context.DecisionContext` is the usual one."""

from collections.abc import Callable
from datetime import datetime
from typing import Protocol, runtime_checkable

from pydantic import JsonValue

from ..core.events import Event
from ..core.units import Scope, Seconds


class Context(Protocol):
    """A context that `Memory` can keep."""

    @property
    def scope(self) -> Scope: ...
    @property
    def events(self) -> list[Event]: ...
    @property
    def scratch(self) -> dict[str, JsonValue]: ...
    def clear(self) -> None: ...
    def forget(self, older_than: Seconds) -> None: ...
    def drop(self, seqs: set[int]) -> None: ...


class Restore[C](Protocol):
    """Builds a context from what the store keeps of its scope."""

    def __call__(
        self,
        *,
        scope: Scope,
        events: list[Event],
        recent: list[Event],
        scratch: dict[str, JsonValue],
        last_action_at: datetime | None,
        clock: Callable[[], datetime],
    ) -> C: ...


@runtime_checkable
class LimitsPrompt(Protocol):
    """A context that limits its prompts; optional."""

    def limit_prompt(self, max_bytes: int) -> None: ...


def limit_prompt(context: object, max_bytes: int) -> None:
    """Set the most bytes of the context's prompts, if it supports that."""
    if isinstance(context, LimitsPrompt):
        context.limit_prompt(max_bytes)


@runtime_checkable
class LimitsRecent(Protocol):
    """A context that keeps events that were acted on; optional."""

    def limit_recent(self, max_bytes: int) -> int: ...


def limit_recent(context: object, max_bytes: int) -> int:
    """Limit the bytes of events that were acted on, if the context keeps any; return the bytes that stay."""
    return context.limit_recent(max_bytes) if isinstance(context, LimitsRecent) else 0
