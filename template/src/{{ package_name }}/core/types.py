"""The types of filters and triggers, and for your imports the units below them."""

from collections.abc import Awaitable, Callable, Mapping

from .context import DecisionContext
from .deps import ReflexDeps
from .events import Event
from .units import Schedule as Schedule
from .units import Scope as Scope
from .units import Seconds as Seconds

type Filter = Callable[[Event, DecisionContext], bool]
"""Returns whether an event enters the context; it must be fast and without I/O."""

type Trigger = Callable[[DecisionContext, ReflexDeps], Awaitable[object | None]]
"""Evaluates the context, possibly by a model.

Returns None to hold the events, an `Act`, `Drop` or `Wait` of `core/outcomes.py`, or any other value to act with it as
the output.
"""

type Triggers = Mapping[str, Trigger]
"""Several triggers by their names, evaluated in order."""
