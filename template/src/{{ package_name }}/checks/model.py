"""Checks by one small request that the provider knows the model and accepts the key."""

from pydantic_ai.direct import model_request
from pydantic_ai.exceptions import ModelAPIError, UnexpectedModelBehavior
from pydantic_ai.messages import ModelRequest
from pydantic_ai.settings import ModelSettings

from ..config import Settings
from ..core.units import Seconds
from ..infra.database import StartupError
from ..infra.model.causes import advice, cause_of
from ..infra.model.models import build_model
from ..infra.model.responses import require_content, valid_response
from ..infra.text import describe
from .findings import Finding, error, ok, warning

CHECK = "model"
MODEL_TIMEOUT: Seconds = 30.0
PROMPT = ModelRequest.user_text_prompt("Answer with OK.")
MAX_TOKENS = 16  # the fewest that OpenAI accepts


async def check_model(settings: Settings) -> list[Finding]:
    """Send one request to the model of `DEFAULT_MODEL`; the offline model needs none."""
    name = settings.default_model
    try:
        model = build_model(settings)
    except StartupError as problem:
        return [error(CHECK, "Correct DEFAULT_MODEL or its key", str(problem).removesuffix("."))]
    if name == "offline":
        return [ok(CHECK, "offline: no provider is asked")]
    limits = ModelSettings(max_tokens=MAX_TOKENS, timeout=MODEL_TIMEOUT, max_retries=0)
    try:
        with valid_response(name):
            async with model:
                answer = await model_request(model, [PROMPT], model_settings=limits)
            require_content(name, answer)
    except ModelAPIError as problem:
        return [_refusal(problem, name)]
    except UnexpectedModelBehavior as problem:  # a filter: the provider knows the model
        return [warning(CHECK, "Try a prompt of your own", f"{name}: {describe(problem)}")]
    return [ok(CHECK, f"{name} answers")]


def _refusal(problem: ModelAPIError, name: str) -> Finding:
    sentence = advice(problem, name, "DEFAULT_MODEL")
    if cause_of(problem) == "misconfigured":
        found, _, remedy = sentence.rpartition(": ")
        return error(CHECK, remedy, found)
    if cause_of(problem) == "outage":
        return error(
            CHECK, "Check the network and the provider", f"{sentence}: {describe(problem)}"
        )
    return warning(CHECK, "Try an event", f"{name} rejects a small request: {describe(problem)}")
