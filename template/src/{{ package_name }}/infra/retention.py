"""The task that prunes the log where `LOG_RETENTION` is set."""

import asyncio

import logfire

from ..core.units import Seconds
from .database import DATABASE_UNAVAILABLE
from .store import EventStore

CHECK_INTERVAL: Seconds = 60.0  # between looks whether a run of the fleet is due


async def run_retention(store: EventStore, older_than: Seconds) -> None:
    """Prune events older than `older_than` seconds, in one process of the fleet at a time, until cancelled."""
    while True:
        try:
            await store.admin.prune_if_due(older_than)
        except DATABASE_UNAVAILABLE as error:
            logfire.warn("The log is not pruned yet: {error}", error=repr(error))
        await asyncio.sleep(CHECK_INTERVAL)
