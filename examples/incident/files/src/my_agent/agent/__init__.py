"""Our agent: it opens an incident when alerts of a service follow its deploy."""

from ..core.deps import ReflexDeps
from ..infra.locks import ScopedLocks
from ..infra.store import EventStore
from .incidents import record_incident
from .loop import run_agent_loop
from .triggers import is_news, trigger

__all__ = ["run_agent"]


async def run_agent(store: EventStore, deps: ReflexDeps, locks: ScopedLocks) -> None:
    """Run the agent until its store is drained, or until it is cancelled."""
    await run_agent_loop(store, deps, is_news, trigger, locks, record_incident)
