"""What a trigger may answer besides None and a plain output: `Act`, `Drop` and `Wait`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .events import Event
from .units import Scope, Seconds

CLIENT_SCOPE = "ws:"
"""How the scopes of WebSocket clients begin."""
LONGEST_WAIT: Seconds = 10 * 365 * 86_400.0


@dataclass(frozen=True)
class Act:
    """Act on all events of the context, which is then empty.

    Raises:
        ValueError: `notify` has something other than the scopes of WebSocket clients.
    """

    output: object
    trigger: str = ""
    """The trigger's name in the action; if empty, that of its function, or its key among several triggers."""
    notify: tuple[Scope, ...] = ()
    """The scopes of WebSocket clients that the action is pushed to, besides its own: `("ws:ada",)`."""

    def __post_init__(self) -> None:
        """Refuse scopes that no client has."""
        if isinstance(self.notify, str):
            raise ValueError(
                f"notify: {self.notify!r} is a text: write a tuple, ({self.notify!r},)"
            )
        for scope in self.notify:
            if not scope.startswith(CLIENT_SCOPE):
                raise ValueError(
                    f"notify: {scope!r} is not the scope of a WebSocket client: write ws: and its id"
                )


@dataclass(frozen=True)
class Drop:
    """Settle events without an action. An `agent.dropped` event records which and why.

    Raises:
        ValueError: the reason is empty.
    """

    reason: str
    """Why, in one sentence; people read it with the status of the events."""
    events: Sequence[Event] | None = None
    """Which events of the context; None for all. The others are held, and the trigger is evaluated again for them."""

    def __post_init__(self) -> None:
        """Refuse a drop that nobody could explain."""
        if not self.reason.strip():
            raise ValueError("reason: it is empty: say in a sentence why the events are dropped")


@dataclass(frozen=True)
class Wait:
    """Hold the events, and evaluate the trigger again after `seconds`, even if no event comes.

    The next evaluation of the scope ends the wait, whatever leads to it; its outcome may be another one. The wait is
    stored, so any worker ends it.

    Raises:
        ValueError: `seconds` is not more than 0, or more than ten years.
    """

    seconds: Seconds

    def __post_init__(self) -> None:
        """Refuse a wait that never ends, or ends at once forever."""
        if not (math.isfinite(self.seconds) and 0 < self.seconds <= LONGEST_WAIT):
            raise ValueError(
                f"seconds: {self.seconds} is not between 0 and {LONGEST_WAIT:.0f}: wait for a time ahead"
            )


type Outcome = Act | Drop | Wait
"""What is done with the events of a context; None instead holds them."""
