"""Checks that the servers of the settings can be reached, and that the database has the schema of this version."""

import os
import re

import httpx2

from .. import COMMAND
from ..config import Settings
from ..core.units import Seconds
from ..infra.database import LoginRefused, StartupError, check_database
from ..infra.locks import open_locks
from ..infra.observability import COLLECTORS
from ..infra.text import describe, without_passwords
from .findings import Finding, error, from_sentence, ok, warning

TELEMETRY_TIMEOUT: Seconds = 5.0
MIGRATED_LATER = "older than this version; the next start migrates it"
LOGFIRE = "https://logfire-{region}.pydantic.dev"
LOGFIRE_TOKEN = re.compile(r"pylf_v\d+_([a-z]+)_")


async def check_connection(settings: Settings) -> list[Finding]:
    """Connect to the database as the service and as its owner."""
    try:
        await check_database(settings)
    except LoginRefused as problem:
        if not settings.lenient or settings.owner is settings:
            return [from_sentence("database", "error", str(problem))]
    except StartupError as problem:
        return [from_sentence("database", "error", str(problem))]
    if settings.owner is not settings:
        try:
            await check_database(settings.owner)
        except StartupError as problem:
            return [from_sentence("database", "error", str(problem))]
    return [ok("database", "it answers")]


async def check_locks(settings: Settings) -> list[Finding]:
    """Open the locks of a process."""
    try:
        async with open_locks(settings):
            return []
    except StartupError as problem:
        return [from_sentence("locks", "error", str(problem))]


async def check_schema(settings: Settings) -> list[Finding]:
    """Compare the schema with that of this version, and applied migrations with their files."""
    from .. import migrations  # loads Alembic

    notes: list[str] = []
    try:
        await migrations.check_schema(settings, on_warning=notes.append)
    except migrations.SchemaOutdated as problem:
        if settings.lenient:
            return [ok("schema", MIGRATED_LATER)]
        return [_outdated(str(problem))]
    except StartupError as problem:
        return [from_sentence("schema", "error", str(problem))]
    # Another check names the empty migrations.
    found = [from_sentence("schema", "warning", it) for it in notes if not it.startswith("The rev")]
    found += [
        warning(
            "migrations",
            "Undo the edit and write a further migration",
            f"{name} was edited after it was applied here: no database applies the edit",
        )
        for name in await migrations.find_edited(settings)
    ]
    return found or [ok("schema", "that of this version")]


def _outdated(sentence: str) -> Finding:
    return error("schema", f"Run `{COMMAND} migrate`", sentence.rpartition(": ")[0])


async def check_telemetry(settings: Settings) -> list[Finding]:
    """Connect to the receivers of telemetry; any answer counts, since a receiver may refuse a `GET`."""
    found: list[Finding] = []
    async with httpx2.AsyncClient(timeout=TELEMETRY_TIMEOUT) as http:
        for name, url in _receivers(settings).items():
            try:
                await http.get(url)
            except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError) as problem:
                found.append(_unreached(name, url, problem))
            except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as problem:
                found.append(_unreached(name, url, problem))
            except httpx2.HTTPError:
                pass  # it listens, and speaks another protocol, such as gRPC
    return found


def _receivers(settings: Settings) -> dict[str, str]:
    """Return the URLs of the receivers, by the setting or the variable that names them."""
    named = {name: os.environ[name] for name in COLLECTORS if os.environ.get(name)}
    if settings.logfire_token is not None:
        region = LOGFIRE_TOKEN.match(settings.logfire_token.get_secret_value())
        url = LOGFIRE.format(region=region[1] if region else "us")
        named["LOGFIRE_TOKEN"] = os.environ.get("LOGFIRE_BASE_URL") or url
    return {name: url if "://" in url else f"http://{url}" for name, url in named.items()}


def _unreached(name: str, url: str, problem: Exception) -> Finding:
    found = (
        f"{without_passwords(url)} cannot be reached ({describe(problem)}): no telemetry arrives"
    )
    return warning("telemetry", f"Start the receiver, or correct {name}", found)
