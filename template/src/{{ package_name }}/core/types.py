"""The few types that the whole service speaks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .context import DecisionContext
    from .deps import ReflexDeps
    from .events import Event

type Seconds = float
"""A duration in seconds."""

type Scope = str
"""Whose memory an event belongs to: `main`, `ws:<client>`, or what a type of event names."""

type Schedule = Seconds | str
"""When a timer ticks: at an interval, or by a cron expression, in UTC."""

type Filter = Callable[[Event, DecisionContext], bool]
"""Decides at once, without I/O, whether an event enters the context."""

type Trigger = Callable[[DecisionContext, ReflexDeps], Awaitable[object | None]]
"""Looks at the context, may call a model, and returns what to act on, or None to wait."""
