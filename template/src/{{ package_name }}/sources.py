"""Loads the owner's sources, `agent/sources.py`, and checks them before the service starts.

Projects of earlier releases have no such file, and then there are none.
"""

import re
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from json import dumps
from pathlib import Path
from typing import Any

from cronsim import CronSim, CronSimError

from .config import Settings
from .core.sources import Poller, Webhook
from .infra.database import StartupError
from .infra.signatures import Verifier

PACKAGE = __name__.rpartition(".")[0]
MODULE = f"{PACKAGE}.agent.sources"
FILE = "agent/sources.py"
EMPTY = "{}"
NAME = re.compile("[a-z0-9][a-z0-9_-]{0,49}")
"""Names are part of URLs and of ids of events."""


@dataclass(frozen=True)
class Sources:
    """The webhooks and pollers of a service, by their names."""

    webhooks: Mapping[str, Webhook] = field(default_factory=dict[str, Webhook])
    pollers: Mapping[str, Poller] = field(default_factory=dict[str, Poller])


def load_sources() -> Sources:
    """Return the sources of `agent/sources.py`; none if there is no such file.

    Raises:
        StartupError: the file cannot be imported, or one of its sources is not valid.
    """
    try:
        module = import_module(MODULE)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == MODULE:
            return Sources()
        raise StartupError(_import_problem(error)) from error
    sources = Sources(
        _read(module, "WEBHOOKS", Webhook, "Webhook"), _read(module, "POLLERS", Poller, "Poller")
    )
    for name, poller in sources.pollers.items():
        _check_poller(name, poller)
    return sources


def open_verifiers(sources: Sources, settings: Settings) -> dict[str, Verifier]:
    """Return the verifier of each webhook that has a secret.

    Raises:
        StartupError: a webhook has none in production, or a secret that its sender cannot have made.
    """
    verifiers: dict[str, Verifier] = {}
    for name, webhook in sources.webhooks.items():
        secrets = [each.get_secret_value() for each in settings.webhook_secrets.get(name, [])]
        if not secrets:
            if not settings.lenient:
                raise StartupError(missing_secret(name))
            continue
        try:
            verifiers[name] = webhook.verifier(secrets)
        except ValueError as error:
            raise StartupError(
                f"WEBHOOK_SECRETS: the secret of {name!r} is wrong: {error}."
            ) from error
    return verifiers


def find_secret_problems(sources: Sources, settings: Settings) -> list[str]:
    """Return a sentence for each webhook without a secret, and for each secret without a webhook."""
    return [
        *(
            missing_secret(name)
            for name in sources.webhooks
            if name not in settings.webhook_secrets
        ),
        *(
            f"WEBHOOK_SECRETS has a secret for {name!r}, and {FILE} has no webhook of this name: remove or rename it."
            for name in settings.webhook_secrets
            if name not in sources.webhooks
        ),
    ]


def missing_secret(name: str) -> str:
    """Return the sentence that a webhook has no secret."""
    return (
        f"The webhook {name!r} of {FILE} has no secret: set WEBHOOK_SECRETS to"
        f" {dumps({name: '...'})}, with the secret that its sender signs with."
    )


def _import_problem(error: Exception) -> str:
    """Return a sentence with the error of the owner's file and its line."""
    frames = traceback.extract_tb(error.__traceback__)
    folder = str(Path(__file__).parent)
    lines = [frame for frame in frames if frame.filename.startswith(folder)]
    place = f" (line {lines[-1].lineno} of {Path(lines[-1].filename).name})" if lines else ""
    return f"{FILE} cannot be imported: {type(error).__name__}: {error}{place}: correct it."


def _read[Source](module: Any, name: str, kind: type[Source], example: str) -> dict[str, Source]:
    found = getattr(module, name, None)
    if not isinstance(found, dict):
        raise StartupError(
            f"{FILE} needs a dictionary {name}, which may be empty: write"
            f" `{name}: dict[str, {example}] = {EMPTY}`."
        )
    sources: dict[str, Source] = {}
    for key, source in found.items():  # pyright: ignore[reportUnknownVariableType] - checked here
        if not isinstance(key, str) or not NAME.fullmatch(key):
            raise StartupError(
                f"{FILE}: {name} has the name {key!r}: use 1 to 50 of a-z, 0-9, - and _."
            )
        if not isinstance(source, kind):
            raise StartupError(f"{FILE}: {name}[{key!r}] is not a {example}: write one.")
        sources[key] = source
    return sources


def _check_poller(name: str, poller: Poller) -> None:
    place = f"{FILE}: the poller {name!r}"
    if isinstance(poller.schedule, str):
        try:
            CronSim(poller.schedule, datetime.now(UTC))
        except CronSimError as error:
            raise StartupError(
                f"{place} has the schedule {poller.schedule!r}, which is not valid ({error}): write"
                " seconds, or five fields such as '0 3 * * *'."
            ) from error
    elif not poller.schedule >= 1:
        raise StartupError(f"{place} must run at intervals of at least 1 second.")
    if not poller.timeout > 0:
        raise StartupError(f"{place} needs a timeout of more than 0 seconds.")
