"""What a working memory needs of the contexts that it keeps, which `core` says how to decide on."""

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from pydantic import JsonValue

from ..core.events import Event
from ..core.types import Scope, Seconds


class Context(Protocol):
    """What a working memory needs of a context."""

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
    """Builds a context from what the store remembers."""

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
