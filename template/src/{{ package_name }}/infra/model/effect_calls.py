"""Whether the tool call that runs came to a function that `@effect` marks: its record names it as an effect."""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class EffectCall:
    """A tool call that runs."""

    is_effect: bool = False


_running: ContextVar[EffectCall | None] = ContextVar("effect_call", default=None)


@contextmanager
def watching() -> Generator[EffectCall]:
    """Watch the tool call in the block, also in the threads and tasks that it starts."""
    call = EffectCall()
    token = _running.set(call)
    try:
        yield call
    finally:
        _running.reset(token)


def note_effect() -> None:
    """Note that the running tool call is an effect, whether it is executed or not."""
    if (call := _running.get()) is not None:
        call.is_effect = True
