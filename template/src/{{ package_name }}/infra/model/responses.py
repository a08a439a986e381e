"""Detect responses that are not a model's answer: a proxy's page, `{}`, a truncated or an empty document.

Clients raise various errors while they parse such a response. All of them become `InvalidResponse`, which
counts as an outage. Errors of the agent's own validation are not affected.
"""

import re
import traceback
from collections.abc import Generator
from contextlib import contextmanager

from pydantic_ai.exceptions import ContentFilterError, ModelAPIError, UnexpectedModelBehavior
from pydantic_ai.messages import ModelResponse
from pydantic_ai.models import Model

from ..text import describe

# Raised while a response is parsed, these mean an outage. Raised before the request, they are the event's failure.
PARSING_ERRORS = (TypeError, AttributeError, LookupError, ValueError)
PARSER_FUNCTIONS = re.compile("^_process_|^_finish_response$|_from_(mldev|vertex)$")
"""Matches functions of PydanticAI's models, and of Google's client, that parse responses."""
MAX_REASON_LENGTH = 300  # characters of the reason: the response may be a whole page


class InvalidResponse(ModelAPIError):
    """The provider sent a successful response that is not a model's answer."""


@contextmanager
def valid_response(model: str) -> Generator[None]:
    """Translate parser errors of the request in the block.

    Raises:
        InvalidResponse: the response is not a model's answer.
    """
    try:
        yield
    except ContentFilterError:
        raise
    except UnexpectedModelBehavior as error:
        raise invalid_response(model, error) from error
    except ModelAPIError as error:
        if type(error) is not ModelAPIError:  # its subclasses have a cause of their own
            raise
        raise invalid_response(model, error) from error
    except PARSING_ERRORS as error:
        if not _raised_by_parser(error):
            raise
        raise invalid_response(model, error) from error


def require_content(model: str, response: ModelResponse) -> None:
    """Check that a parsed response has content.

    Raises:
        InvalidResponse: it has no parts, no finish reason and no usage.
    """
    if not response.parts and response.finish_reason is None and not response.usage.has_values():
        raise InvalidResponse(model, "the response has no content")


def require_end(model: Model, response: ModelResponse) -> None:
    """Check that a streamed response was not cut off: its provider gave the reason for its end.

    PydanticAI assumes `stop` where the stream ends without a reason; the provider's own is in the details.

    Raises:
        InvalidResponse: it was cut off.
    """
    given = "finish_reason" in (response.provider_details or {})
    if model.provider is not None and response.finish_reason in (None, "stop") and not given:
        raise InvalidResponse(model.model_name, "the response ended without a finish reason")


def invalid_response(model: str, error: Exception) -> InvalidResponse:
    """Return the error for a response that cannot be parsed, with the reason as one line."""
    reason = " ".join(describe(error)[: 2 * MAX_REASON_LENGTH].split())
    reason = reason if len(reason) <= MAX_REASON_LENGTH else f"{reason[:MAX_REASON_LENGTH]} ..."
    return InvalidResponse(model, f"the response is not a model's answer: {reason}")


def _raised_by_parser(error: Exception) -> bool:
    frames = traceback.walk_tb(error.__traceback__)
    return any(PARSER_FUNCTIONS.search(frame.f_code.co_name) for frame, _ in frames)
