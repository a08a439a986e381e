"""The soak's agent: each action writes a row, in the transaction that settles its events."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from ..core.deps import ReflexDeps
from ..core.events import ActionEvent
from ..infra.locks import ScopedLocks
from ..infra.store import EventStore
from .loop import run_agent_loop
from .triggers import relevant, trigger

RECORD = text("INSERT INTO soak_effects (action_id, covers) VALUES (:action_id, :covers)")


async def record(session: AsyncSession, action: ActionEvent) -> None:
    """Write down the action."""
    await session.execute(RECORD, {"action_id": action.id, "covers": len(action.covers)})


async def run_agent(store: EventStore, deps: ReflexDeps, locks: ScopedLocks) -> None:
    """Run the agent until its store is drained, or until it is cancelled."""
    await run_agent_loop(store, deps, relevant, trigger, locks, record)
