"""Sources of settings: their order, empty values, and names that resemble a setting.

An empty value means *not set* in every source. In the environment it also hides the line of `.env`, so
that one command can run without a setting. It never hides the file of a secret: containers receive all
names of `.env.production`, most of them empty, and their secrets as files.
"""

import os
from difflib import get_close_matches
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
)

MIN_SIMILARITY = 0.85  # from 0 to 1: finds swapped or missing letters, and no names of other tools


class SecretFiles(SecretsSettingsSource):
    """Files of secrets; an empty file means *not set*."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return the value of one setting, None if its file is missing or empty."""
        value, key, is_complex = super().get_field_value(field, field_name)
        return value or None, key, is_complex


def order_sources(
    settings: type[BaseSettings],
    given: PydanticBaseSettingsSource,
    environment: PydanticBaseSettingsSource,
    dotenv: PydanticBaseSettingsSource,
    secrets: PydanticBaseSettingsSource,
) -> tuple[PydanticBaseSettingsSource, ...]:
    """Return the sources, highest priority first."""
    if isinstance(dotenv, DotEnvSettingsSource):
        hidden = {name.lower() for name, value in os.environ.items() if not value}
        dotenv.env_vars = {
            name: value for name, value in dotenv.env_vars.items() if name.lower() not in hidden
        }
    if isinstance(secrets, SecretsSettingsSource):
        secrets = SecretFiles(settings, secrets.secrets_dir)
    return given, environment, dotenv, secrets


def find_misspelt(settings: type[BaseSettings]) -> list[str]:
    """Return a sentence for each name in the environment or in `.env` that resembles a setting."""
    known = {name.upper() for name in settings.model_fields}
    found = {**EnvSettingsSource(settings).env_vars, **DotEnvSettingsSource(settings).env_vars}
    sentences: list[str] = []
    for name in sorted({name.upper() for name in found} - known):
        if meant := get_close_matches(name, known, n=1, cutoff=MIN_SIMILARITY):
            sentences.append(f"{name} is not a setting: did you mean {meant[0]}?")
    return sentences
