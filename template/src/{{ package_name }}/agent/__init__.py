"""Your agent. Replace anything in this folder; the service only requires `run_agent`."""

from ..core.deps import ReflexDeps
from ..infra.locks import ScopedLocks
from ..infra.store import EventStore
from .loop import run_agent_loop
from .triggers import relevant, trigger

__all__ = ["run_agent"]


async def run_agent(store: EventStore, deps: ReflexDeps, locks: ScopedLocks) -> None:
    """Run the agent until its store is drained, or until it is cancelled."""
    await run_agent_loop(store, deps, relevant, trigger, locks)
