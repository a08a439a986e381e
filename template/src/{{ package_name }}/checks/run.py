"""Runs all checks, those that need no server first."""

import asyncio
from collections.abc import Awaitable, Callable

from ..config import Settings
from .code import IMPORT_TIMEOUT, check_agent, check_fields, check_migrations
from .event_types import check_event_types
from .findings import CHECK_TIMEOUT, Finding, guarded
from .model import MODEL_TIMEOUT, check_model
from .names import check_settings
from .queue import check_queue
from .servers import (
    MIGRATED_LATER,
    check_connection,
    check_locks,
    check_schema,
    check_telemetry,
)
from .tools import check_tools

type Look = Callable[[], Awaitable[list[Finding]]]


async def check_project() -> tuple[Settings | None, list[Finding]]:
    """Check the settings and the code; return the settings if they are valid."""
    valid: list[Settings] = []

    async def look_at_settings() -> list[Finding]:
        settings, found = check_settings()
        valid.extend([settings] if settings else [])
        return found

    looks: dict[str, Look] = {
        "settings": look_at_settings,
        "agent": check_agent,
        "tools": check_tools,
        "event types": check_event_types,
        "fields": check_fields,
        "migrations": check_migrations,
    }
    found = [
        each for name, look in looks.items() for each in await guarded(name, look, IMPORT_TIMEOUT)
    ]
    return (valid[0] if valid else None), found


async def check_outside(settings: Settings, *, model: bool) -> list[Finding]:
    """Check the model and the receivers of telemetry, at the same time."""
    looks = [guarded("telemetry", lambda: check_telemetry(settings))]
    if model:
        looks.append(guarded("model", lambda: check_model(settings), MODEL_TIMEOUT + CHECK_TIMEOUT))
    return [each for found in await asyncio.gather(*looks) for each in found]


async def check_servers(settings: Settings) -> list[Finding]:
    """Check the database and the locks; without the database or its schema, less of them."""
    found = await guarded("database", lambda: check_connection(settings))
    if any(each.state == "error" for each in found):
        return found
    found += await guarded("locks", lambda: check_locks(settings))
    schema = await guarded("schema", lambda: check_schema(settings))
    found += schema
    if not any(each.state == "error" or each.found == MIGRATED_LATER for each in schema):
        found += await guarded("queue", lambda: check_queue(settings))
    return found
