"""Drops events that were held for too long, and at the start ends waits that are longer than any that code sets today."""

import asyncio

import logfire

from ..core.units import Seconds
from .database import DATABASE_UNAVAILABLE
from .store import EventStore

SWEEP_INTERVAL: Seconds = 60.0  # between drops of events that were held for too long


async def run_sweep(store: EventStore) -> None:
    """Sweep until cancelled; an outage of the database only delays it."""
    recalled: int | None = None
    while True:
        try:
            if recalled is None:
                recalled = await _recall(store)
            await store.release_aged(store.settings.context_max_age)
            await store.journal.prune(store.settings.decision_retention)
        except DATABASE_UNAVAILABLE as error:
            logfire.warn("The sweep waits for the database: {error}", error=repr(error))
        await asyncio.sleep(SWEEP_INTERVAL)


async def _recall(store: EventStore) -> int:
    with logfire.suppress_instrumentation():  # traces of checks are noise
        recalled = await store.queue.end_overlong_waits()
    if recalled:
        logfire.warn("Recalled {count} events that waited for too long", count=recalled)
    return recalled
