"""States what the events of a scope wait for: the last failed decision, the models, and a pause."""

from collections.abc import Iterator

from ..core.units import Scope
from ..infra.model.guard import ModelState
from ..infra.store.next_decision import next_decision
from ..runtime import Service
from .text import duration


async def obstacles(service: Service, scope: Scope) -> list[str]:
    """Return a sentence for each reason for which the events of a scope wait; empty if nothing prevents decisions."""
    store = service.store
    found = [
        f"{pause}: nobody claims its events."
        for pause in await store.admin.pauses()
        if pause.subscriber == store.subscriber
    ]
    if following := await next_decision(store.by_index, store.subscriber, scope):
        found.append(following)
    return [*found, *failures(service, scope)]


def failures(service: Service, scope: Scope) -> Iterator[str]:
    """Yield what this process knows: the last failed decision of a scope, and the models that cannot be used."""
    yield from _failure(service, scope)
    for name, state in service.model.states().items():
        if state.breaker != "closed" or state.error:
            yield _model(name, state)


def _failure(service: Service, scope: Scope) -> Iterator[str]:
    if (failed := service.store.failed_decisions.of(scope)) is None:
        return
    now = service.store.now()
    ago = duration(max(0.0, (now - failed.at).total_seconds()))
    again = ""
    if failed.retry_at is not None and failed.retry_at > now:
        left = duration((failed.retry_at - now).total_seconds())
        again = f" It is tried again in {left}."
    yield f"The last decision failed {ago} ago: {failed.reason.rstrip('.')}.{again}"


def _model(name: str, state: ModelState) -> str:
    problem = {
        "budget": f"The budget of the model {name} is spent",
        "misconfigured": f"The model {name} cannot be used",
    }.get(state.cause or "", f"The model {name} does not answer")
    when = f"in {duration(state.retry_in)}" if state.retry_in else "soon"
    error = f" ({state.error})" if state.error else ""
    return f"{problem}: decisions wait and are tried again {when}.{error}"
