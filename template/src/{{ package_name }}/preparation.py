"""Checks that the service can start, and migrates its database in development."""

from collections.abc import Callable

import logfire

from .config import Settings
from .core.units import Seconds
from .infra.database import LoginRefused, StartupError, check_database
from .infra.locks import open_locks
from .infra.model.models import build_model
from .infra.store.roundtrip import find_lossy_field
from .infra.text import as_template
from .keys import weak_keys
from .schema_check import is_current
from .sources import find_secret_problems, load_sources, open_verifiers

INDEX_TIMEOUT: Seconds = 30.0  # development starts without an index that takes longer to build

type Report = Callable[[str], None]
"""A callback for progress or warnings, as sentences."""


def log(sentence: str) -> None:
    """Log progress."""
    logfire.info(as_template(sentence))


def warn(sentence: str) -> None:
    """Log a warning about the schema."""
    logfire.warn(as_template(sentence))


async def prepare(
    settings: Settings, *, on_progress: Report = log, on_warning: Report = warn
) -> list[str]:
    """Check that the service can start; return the applied migrations.

    Migrations are applied in development and in tests only; elsewhere, migrating is a separate step.
    `on_progress` receives the progress of building an index, `on_warning` warnings about the schema and keys.

    Raises:
        StartupError: the service cannot start; the message is one sentence.
    """
    check_production(settings)
    if unfit := find_lossy_field():
        raise StartupError(unfit)
    build_model(settings)
    sources = load_sources()
    open_verifiers(sources, settings)
    for sentence in (
        *weak_keys(settings.api_keys, settings.api_clients),
        *find_secret_problems(sources, settings),
    ):
        on_warning(sentence)
    with logfire.suppress_instrumentation():  # traces of checks are noise
        try:
            await check_database(settings)
        except LoginRefused:  # migrating creates the role if it does not exist
            if not settings.lenient or settings.owner is settings:
                raise
    applied = (
        [] if await is_current(settings) else await _migrate(settings, on_progress, on_warning)
    )
    with logfire.suppress_instrumentation():
        async with open_locks(settings):
            pass
    return applied


async def _migrate(settings: Settings, on_progress: Report, on_warning: Report) -> list[str]:
    """Migrate the schema in development and in tests; check it in other environments."""
    from .migrations import IndexNotBuilt, check_schema, migrate  # loads Alembic

    if not settings.lenient:
        await check_schema(settings, on_warning=on_warning)
        return []
    try:
        applied = await migrate(
            settings,
            reapply=False,
            index_timeout=INDEX_TIMEOUT,
            on_progress=on_progress,
            on_warning=on_warning,
        )
    except IndexNotBuilt as error:
        on_warning(str(error))
        applied = []
    if settings.owner is not settings:  # check that the service's role can use the new schema
        await check_database(settings)
        # `migrate` has reported the same warnings.
        await check_schema(settings, reapply=False, on_warning=lambda _: None)
    return applied


def check_production(settings: Settings) -> None:
    """Check that an environment with the rules of production has keys, none of them short, and a model.

    Raises:
        StartupError: it has not.
    """
    if settings.lenient:
        return
    where = f"ENVIRONMENT={settings.environment} has the rules of production"
    if not settings.api_keys and not settings.api_clients:
        raise StartupError(f"{where} and requires API_KEYS or API_CLIENTS: set at least one key.")
    for sentence in weak_keys(settings.api_keys, settings.api_clients):
        raise StartupError(f"{sentence} (ENVIRONMENT={settings.environment}).")
    if settings.default_model == "offline":
        raise StartupError(
            f"{where} and requires a model: set DEFAULT_MODEL, for example to openai:gpt-5-mini."
        )
