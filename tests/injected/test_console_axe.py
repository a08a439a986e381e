"""Accessibility of every screen of the console, by axe-core in a browser; see `tests/test_projects.py`."""

import os
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from my_agent.config import Settings
from my_agent.core.deps import ReflexDeps
from my_agent.infra.locks import ScopedLocks
from my_agent.infra.store import EventStore

from .chromium import Chromium, a_page
from .chromium import chromium as chromium
from .lives import Texts, Worker, live, working
from .test_console_browser import address as address
from .test_console_browser import screens

AXE = Path(os.environ.get("AXE") or os.devnull).read_text(encoding="utf-8")
"""The script of axe-core, which npm brings; empty without it."""
RUN = 'axe.run(document, {resultTypes: ["violations"]})'
GRAVE = ("serious", "critical")


@pytest.fixture
async def worker(
    settings: Settings, store: EventStore, locks: ScopedLocks, deps: ReflexDeps
) -> AsyncGenerator[Worker]:
    """The agent of the service."""
    async with working(settings, store, locks, deps, Texts()) as worker:
        yield worker


@pytest.mark.skipif(not AXE, reason="axe-core is not installed")
@pytest.mark.parametrize("scheme", ["light", "dark", "phone"])
async def test_no_screen_has_a_serious_finding(
    chromium: Chromium, address: str, worker: Worker, scheme: str
) -> None:
    paths = screens(worker, await live(worker))
    grave: dict[str, list[str]] = {}
    dark, phone = scheme == "dark", scheme == "phone"
    async with a_page(chromium, address, dark=dark, phone=phone, refused=(404,)) as page:
        for name, path in paths.items():
            await page.goto(path)
            await page.evaluate(AXE)
            found = (await page.evaluate(RUN))["violations"]
            grave[name] = [
                f"{each['id']}: {node['failureSummary']} {node['html'][:200]}"
                for each in found
                if each["impact"] in GRAVE
                for node in each["nodes"]
            ]

    assert not {name: each for name, each in grave.items() if each}
