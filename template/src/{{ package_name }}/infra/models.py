"""The model that the settings name, and one that needs neither key nor network."""

from typing import Any, cast

from pydantic_ai.exceptions import UserError
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, UserPromptPart
from pydantic_ai.models import Model, ModelRequestParameters, infer_model
from pydantic_ai.models.test import TestModel
from pydantic_ai.providers import Provider, infer_provider
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition

from ..config import Settings
from .database import StartupError

SHORT = 200  # characters of the prompt that the offline model repeats


class OfflineModel(TestModel):
    """A deterministic stand-in: calls every tool once, then fills whatever output is asked for.

    Texts repeat the beginning of the prompt, so that what comes out can be recognised.
    """

    def __init__(self) -> None:
        super().__init__(model_name="offline")
        self._prompt = ""

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Answer one request, remembering what it was about."""
        answering = OfflineModel()  # of its own, since one model serves concurrent runs
        answering._prompt = _first_prompt(messages)
        return await super(OfflineModel, answering).request(
            messages, model_settings, model_request_parameters
        )

    def gen_tool_args(self, tool_def: ToolDefinition) -> Any:  # TestModel's signature
        """Fill a tool's or an output's arguments from its JSON schema."""
        args = super().gen_tool_args(tool_def)
        if not isinstance(args, dict):
            return args
        properties = tool_def.parameters_json_schema.get("properties", {})
        return {
            name: self._readable(properties.get(name, {}), value)
            for name, value in cast("dict[str, Any]", args).items()
        }

    def _readable(self, schema: dict[str, Any], value: Any) -> Any:
        """Put words in place of a generated text, where the schema leaves it free."""
        free = {"type": "string"}.items() <= schema.items() and not (
            schema.keys() & {"enum", "const", "format", "pattern", "maxLength", "minLength"}
        )
        if free:
            return self._prompt or "offline"
        if schema.get("type") == "array" and schema.get("items") == {"type": "string"}:
            return ["Set DEFAULT_MODEL to let a real model answer"]
        return value


def build_model(settings: Settings) -> Model:
    """Return the model named by `DEFAULT_MODEL`.

    Raises:
        StartupError: the name is unknown, or its key is missing.
    """
    if settings.default_model == "offline":
        return OfflineModel()
    if ":" not in settings.default_model:
        raise StartupError(
            f"DEFAULT_MODEL={settings.default_model!r} names no provider: write for example openai:gpt-5-mini."
        )
    try:
        return infer_model(settings.default_model, lambda name: _provider(name, settings))
    except (UserError, ValueError, ImportError) as error:
        raise StartupError(
            f"DEFAULT_MODEL={settings.default_model!r} cannot be used: {error}"
        ) from error


def _provider(name: str, settings: Settings) -> Provider[Any]:
    """Build a provider with the keys of the settings; an unset one is looked up by the provider.

    Each is imported when it is wanted: a client library takes up to a second.
    """
    if name in {"openai", "openai-chat", "openai-responses"}:
        from pydantic_ai.providers.openai import OpenAIProvider

        key = _secret(settings.openai_api_key)
        if settings.openai_base_url and key is None:
            key = "unused"  # a local server asks for none, and the client insists on one
        return OpenAIProvider(base_url=settings.openai_base_url, api_key=key)
    if name == "anthropic" and settings.anthropic_api_key:
        from pydantic_ai.providers.anthropic import AnthropicProvider

        return AnthropicProvider(api_key=settings.anthropic_api_key.get_secret_value())
    if name == "google" and settings.google_api_key:
        from pydantic_ai.providers.google import GoogleProvider

        return GoogleProvider(api_key=settings.google_api_key.get_secret_value())
    return infer_provider(name)


def _secret(value: Any) -> str | None:
    return value.get_secret_value() if value else None


def _first_prompt(messages: list[ModelMessage]) -> str:
    for message in messages:
        if isinstance(message, ModelRequest):
            for part in message.parts:
                if isinstance(part, UserPromptPart):
                    text = part.content if isinstance(part.content, str) else str(part.content)
                    return text.strip().splitlines()[0][:SHORT] if text.strip() else ""
    return ""
