"""The types of filters and triggers, and for your imports the units below them."""

from collections.abc import Awaitable, Callable

from .context import DecisionContext
from .deps import ReflexDeps
from .events import Event
from .units import Schedule as Schedule
from .units import Scope as Scope
from .units import Seconds as Seconds

type Filter = Callable[[Event, DecisionContext], bool]
"""Returns whether an event enters the context; it must be fast and without I/O."""

type Trigger = Callable[[DecisionContext, ReflexDeps], Awaitable[object | None]]
"""Evaluates the context, possibly by a model. Returns the output of an action, or None to hold the events."""
