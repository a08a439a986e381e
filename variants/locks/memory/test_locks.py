"""Locks in the memory of one process: they are dropped when unused, and warn about a second worker."""

import asyncio

import pytest

from {{ package_name }} import runtime
from {{ package_name }}.config import Settings
from {{ package_name }}.infra.locks import ScopedLocks

from .conftest import SOON


async def test_a_lock_that_nobody_wants_is_dropped(locks: ScopedLocks) -> None:
    for number in range(100):
        async with locks.acquire(f"scope:{number}"):
            pass

    assert not any(locks.is_locked(f"scope:{number}") for number in range(100))
    assert vars(locks) == {"_locks": {}, "_users": {}}


async def test_a_second_worker_says_so_and_is_shown_until_it_is_the_only_one(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    def note(text: str, **_: object) -> None:
        said.append(text)

    monkeypatch.setattr(runtime.logfire, "warn", note)
    settings = settings.model_copy(update={"timers": {}})
    async with runtime.open_service(settings, worker=True), asyncio.timeout(SOON):
        async with runtime.open_service(settings, worker=True) as second:
            while not (shown := second.status()["warnings"]):
                await asyncio.sleep(0.05)

        async with runtime.open_service(settings, worker=False) as third:
            assert await third.store.admin.other_workers() == 1
            assert third.status()["warnings"] == []

    assert "stop all workers but one" in shown[0]
    assert said.count(shown[0]) in {1, 2}, "once by each that sees another"
