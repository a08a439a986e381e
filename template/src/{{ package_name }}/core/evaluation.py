"""Evaluates the trigger of a loop, or several in their order."""

from .context import DecisionContext
from .deps import ReflexDeps
from .outcomes import Act, Drop, Outcome, Wait
from .types import Trigger, Triggers


async def evaluate(
    trigger: Trigger | Triggers, ctx: DecisionContext, deps: ReflexDeps
) -> Outcome | None:
    """Evaluate one trigger, or several in their order, and return the outcome; None to hold the events.

    Of several, the first that acts or drops decides. If none does, the soonest `Wait` counts.
    """
    if callable(trigger):
        return as_outcome(await trigger(ctx, deps), getattr(trigger, "__name__", "trigger"))
    soonest: Wait | None = None
    for name, each in trigger.items():
        outcome = as_outcome(await each(ctx, deps), name)
        if isinstance(outcome, Act | Drop):
            return outcome
        if outcome is not None and (soonest is None or outcome.seconds < soonest.seconds):
            soonest = outcome
    return soonest


def as_outcome(answer: object | None, name: str) -> Outcome | None:
    """Return what a trigger answered as an outcome; any other value than None is the output of an action."""
    match answer:
        case None | Drop() | Wait():
            return answer
        case Act():
            return answer if answer.trigger else Act(answer.output, name, answer.notify)
        case _:
            return Act(answer, name)
