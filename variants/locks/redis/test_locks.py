"""Locks in Redis: other processes respect them, as long as their lease lasts."""

import asyncio
import json

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from {{ package_name }}.config import Settings
from {{ package_name }}.core.context import DecisionContext
from {{ package_name }}.core.events import HTTPEvent
from {{ package_name }}.infra.locks import PREFIX, ScopeBusy, ScopedLocks, open_locks
from {{ package_name }}.infra.memory import Memory
from {{ package_name }}.infra.store import EventStore

from .conftest import SOON
from .processes import Command


async def test_another_process_finds_the_scope_busy(locks: ScopedLocks, settings: Settings) -> None:
    async with open_locks(settings) as theirs, locks.acquire("main"):
        with pytest.raises(ScopeBusy):
            async with theirs.acquire("main", wait=False):
                pass

    async with open_locks(settings) as theirs, theirs.acquire("main", wait=False):
        pass


async def test_a_lock_outlasts_its_lease_while_its_holder_lives_and_not_longer(
    settings: Settings,
) -> None:
    async with Redis.from_url(str(settings.redis_url)) as redis:
        ours, theirs = ScopedLocks(redis, lease=1), ScopedLocks(redis, lease=1)
        async with ours.acquire("main"):
            await asyncio.sleep(1.5)
            with pytest.raises(ScopeBusy):
                async with theirs.acquire("main", wait=False):
                    pass

        await redis.set(f"{PREFIX}main", "a process that died", px=200)
        async with asyncio.timeout(SOON), ours.acquire("main"):
            pass


async def test_a_lock_that_is_lost_goes_to_another_and_stays_there_when_its_holder_is_done(
    locks: ScopedLocks, settings: Settings
) -> None:
    async with open_locks(settings) as theirs, Redis.from_url(str(settings.redis_url)) as redis:
        async with locks.acquire("main"):
            await redis.delete(f"{PREFIX}main")
            other = theirs.acquire("main", wait=False)
            await other.__aenter__()

        with pytest.raises(ScopeBusy):
            async with locks.acquire("main", wait=False):
                pass
        await other.__aexit__(None, None, None)


async def test_an_event_whose_lock_redis_cannot_give_waits_and_spends_no_attempt(
    store: EventStore,
) -> None:
    nobody = Redis(port=1, retry=Retry(NoBackoff(), 0))
    memory = Memory(store, ScopedLocks(nobody), DecisionContext.restore)
    await store.publish(HTTPEvent(source="test", method="GET", path="/"))
    events = store.subscribe()
    event, token = await anext(events)

    async with memory.settling(token), memory.open(event.scope):
        raise AssertionError("nobody has the lock")

    row = (await store.fetch("SELECT attempts, error, due_at > now() AS waits FROM deliveries"))[0]
    assert (row["attempts"], row["error"], row["waits"]) == (0, None, True)
    await events.aclose()
    await nobody.aclose()


async def test_check_names_a_server_that_cannot_be_reached(command: Command) -> None:
    code, said = await command("check", "--json", "--no-model", REDIS_URL="redis://127.0.0.1:1/0")

    lines = json.loads(said.splitlines()[-1])
    [line] = [each for each in lines if each["state"] != "ok"]
    assert (line["check"], line["state"], code) == ("locks", "error", 1)
    assert line["remedy"] == "start it or correct the URL"
