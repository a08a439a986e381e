"""Locks in PostgreSQL: other processes respect them, and those of a dead process are free."""

import asyncio

import pytest

from {{ package_name }}.config import Settings
from {{ package_name }}.infra.locks import ScopeBusy, ScopedLocks, open_locks
from {{ package_name }}.infra.store import EventStore

from .conftest import SOON


async def test_another_process_finds_the_scope_busy(locks: ScopedLocks, settings: Settings) -> None:
    async with open_locks(settings) as theirs, locks.acquire("main"):
        with pytest.raises(ScopeBusy):
            async with theirs.acquire("main", wait=False):
                pass

    async with open_locks(settings) as theirs, theirs.acquire("main", wait=False):
        pass


async def test_the_locks_of_a_process_that_dies_are_free(
    locks: ScopedLocks, settings: Settings, store: EventStore
) -> None:
    kill = (  # of this database alone: others may be migrating theirs on the same server
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    async with open_locks(settings) as theirs, locks.acquire("main"):
        await store.fetch(kill)

        async with asyncio.timeout(SOON), theirs.acquire("main"):
            pass

    async with asyncio.timeout(SOON), locks.acquire("main"):
        pass
