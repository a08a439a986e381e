"""Build the model that the settings name, with their keys."""

from typing import Any

from pydantic_ai.exceptions import UserError
from pydantic_ai.models import Model, infer_model
from pydantic_ai.providers import Provider, infer_provider

from ...config import Settings
from ..database import StartupError
from .offline import OfflineModel

OPENAI = "https://api.openai.com/v1"


def build_model(settings: Settings, named_by: str | None = None) -> Model:
    """Return the model of `DEFAULT_MODEL`.

    `named_by` replaces `DEFAULT_MODEL` in error messages.

    Raises:
        StartupError: the name is unknown, or its key is missing.
    """
    if settings.default_model == "offline":
        return OfflineModel()
    named = named_by or f"DEFAULT_MODEL={settings.default_model!r}"
    if ":" not in settings.default_model:
        raise StartupError(f"{named} has no provider: write it like openai:gpt-5-mini.")
    try:
        return infer_model(settings.default_model, lambda name: _provider(name, settings))
    except (UserError, ValueError, ImportError) as error:
        raise StartupError(f"{named} cannot be used: {error}") from error


def _provider(name: str, settings: Settings) -> Provider[Any]:
    """Build a provider with the key of the settings; if it is unset, the provider reads the environment.

    Providers are imported on demand: a client library takes up to a second to load.
    """
    if name in {"openai", "openai-chat", "openai-responses"}:
        from pydantic_ai.providers.openai import OpenAIProvider

        key = _secret(settings.openai_api_key)
        if key is None and settings.openai_base_url is None:
            raise UserError("set OPENAI_API_KEY, or OPENAI_BASE_URL for a server without keys")
        key = key or "unused"  # a local server requires none, but the client does
        # Always given: the client would use an empty OPENAI_BASE_URL of the environment as the URL.
        return OpenAIProvider(base_url=settings.openai_base_url or OPENAI, api_key=key)
    if name == "anthropic" and settings.anthropic_api_key:
        from pydantic_ai.providers.anthropic import AnthropicProvider

        return AnthropicProvider(api_key=settings.anthropic_api_key.get_secret_value())
    if name == "google" and settings.google_api_key:
        from pydantic_ai.providers.google import GoogleProvider

        return GoogleProvider(api_key=settings.google_api_key.get_secret_value())
    return infer_provider(name)


def _secret(value: Any) -> str | None:
    return value.get_secret_value() if value else None
