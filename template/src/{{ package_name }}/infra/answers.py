"""Answers of a model's provider that are none: a proxy's page, `{}`, half a document, nothing at all.

A client raises for these whatever its reading of the answer ends with. All of it becomes `NoAnswer`, an
outage. What an agent makes of an answer (its tools, its output type, a filter) is not looked at here.
"""

import re
import traceback
from collections.abc import Generator
from contextlib import contextmanager

from pydantic_ai.exceptions import ContentFilterError, ModelAPIError, UnexpectedModelBehavior
from pydantic_ai.messages import ModelResponse

from .text import describe

# Clients read an answer without checking it. The same errors, raised before it is sent, are the event's.
MISREAD = (TypeError, AttributeError, LookupError, ValueError)
READING = re.compile("^_process_|^_finish_response$|_from_(mldev|vertex)$")
"""The functions of PydanticAI's models, and of Google's client, that read answers."""
REASON_MOST = 300  # characters: a page of a proxy is no reason


class NoAnswer(ModelAPIError):
    """The provider sent something with a status of success that is no answer of a model."""


@contextmanager
def required(model: str) -> Generator[None]:
    """Require an answer of the request in the block.

    Raises:
        NoAnswer: what came is none.
    """
    try:
        yield
    except ContentFilterError:
        raise
    except UnexpectedModelBehavior as error:
        raise no_answer(model, error) from error
    except ModelAPIError as error:
        if type(error) is not ModelAPIError:  # its subclasses know more
            raise
        raise no_answer(model, error) from error
    except MISREAD as error:
        if not _reads(error):
            raise
        raise no_answer(model, error) from error


def require_content(model: str, response: ModelResponse) -> None:
    """Refuse what is left of an answer in which a client found nothing that it knows.

    Raises:
        NoAnswer: it has neither content nor an end nor a usage.
    """
    if not response.parts and response.finish_reason is None and not response.usage.has_values():
        raise NoAnswer(model, "what it sent has nothing of an answer")


def no_answer(model: str, error: Exception) -> NoAnswer:
    """Return the error of an answer that is none, with the reason in one line."""
    reason = " ".join(describe(error)[: 2 * REASON_MOST].split())
    reason = reason if len(reason) <= REASON_MOST else f"{reason[:REASON_MOST]} ..."
    return NoAnswer(model, f"what it sent is no answer: {reason}")


def _reads(error: Exception) -> bool:
    frames = traceback.walk_tb(error.__traceback__)
    return any(READING.search(frame.f_code.co_name) for frame, _ in frames)
