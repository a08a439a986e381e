"""The servers that tests need beside PostgreSQL: none."""

from typing import Any

import pytest

SETTINGS = ("data", "event")
"""How settings begin that a process of the tests shares."""


@pytest.fixture(scope="session")
def backend() -> dict[str, Any]:
    """Return the settings that lead to another server: there are none."""
    return {}
