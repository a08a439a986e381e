"""Marks the tools that act on the outside, so that one setting turns all of them off."""

import inspect
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, overload

import logfire
from opentelemetry.trace import get_current_span

from ..infra.model.effect_calls import note_effect
from ..infra.telemetry import counters
from .deps import ReflexDeps

NOT_EXECUTED = "not executed (EFFECTS=off)"
"""What a tool returns to the model in place of acting."""


@overload
def effect[**P, T](
    tool: Callable[P, Coroutine[Any, Any, T]],
) -> Callable[P, Coroutine[Any, Any, T | str]]: ...
@overload
def effect[**P, T](tool: Callable[P, T]) -> Callable[P, T | str]: ...
def effect(tool: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a tool that acts on the outside: sends a message, opens a ticket, moves money.

    While effects are off (`EFFECTS`), a call returns `NOT_EXECUTED` and does nothing. Name, docstring, signature and
    schema of the tool stay, so the model sees the same tool. A sync tool stays sync.

    The tool takes a `RunContext[ReflexDeps]`, from which the setting is read: each agent that has the tool runs with
    `deps=`, as `deps.run` does. Write `@effect` below `@agent.tool`, which registers what is below it.

    Raises:
        TypeError: it is not a function, or takes no `RunContext`.
    """
    name = getattr(tool, "__name__", repr(tool))
    if not (inspect.isfunction(tool) or inspect.ismethod(tool)):
        raise TypeError(f"@effect marks functions, and {name} is not one: mark the function.")
    signature = inspect.signature(tool)
    context = _context_parameter(name, signature)

    def is_off(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        note_effect()
        deps = getattr(signature.bind(*args, **kwargs).arguments[context], "deps", None)
        if not isinstance(deps, ReflexDeps):
            raise TypeError(
                f"{name} reads EFFECTS from the run's ReflexDeps, and got {type(deps).__name__}: run"
                " its agent with deps=ctx.deps."
            )
        if not deps.settings.runs_effects:
            _record_skipped(name)
        return not deps.settings.runs_effects

    @wraps(tool)
    def call(*args: Any, **kwargs: Any) -> Any:
        return NOT_EXECUTED if is_off(args, kwargs) else tool(*args, **kwargs)

    @wraps(tool)
    async def call_async(*args: Any, **kwargs: Any) -> Any:
        return NOT_EXECUTED if is_off(args, kwargs) else await tool(*args, **kwargs)

    return call_async if inspect.iscoroutinefunction(tool) else call


def _context_parameter(name: str, signature: inspect.Signature) -> str:
    """Return the name of the parameter that is the `RunContext`: the first one, or in a class the second."""
    for parameter in list(signature.parameters.values())[:2]:
        annotation = parameter.annotation  # a text, where annotations are not evaluated
        if "RunContext" in (annotation if isinstance(annotation, str) else repr(annotation)):
            return parameter.name
    raise TypeError(
        f"@effect reads EFFECTS from the run, and {name} takes none: give it the first parameter"
        " `ctx: RunContext[ReflexDeps]`."
    )


def _record_skipped(name: str) -> None:
    counters.effects_skipped.add(1)
    get_current_span().set_attribute("effect", NOT_EXECUTED)
    logfire.info("{tool} was not executed: effects are off", tool=name)
