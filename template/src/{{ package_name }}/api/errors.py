"""What a client is told when something is wrong: one sentence that names the field and the remedy."""

from typing import Any

import logfire
from fastapi import FastAPI, Request, Response
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from ..core.events import event_types, public_types
from ..infra.database import DatabaseUnavailable
from ..infra.observability import note_raised, note_refused
from ..infra.store import EventConflict, InvalidEvent
from ..infra.text import storable, storable_json

RETRY_AFTER = "1"  # seconds
UNAVAILABLE = "The database is unavailable at the moment. Send it again: with the same id, nothing is stored twice."
FRAMEWORKS_UNPARSED = "There was an error parsing the body"
NAME_THE_FIELD = frozenset({"scope", "internal", "reserved", "newer", "older"})
"""Kinds of errors whose text names the field: ours."""
SHOWN = 20  # errors of a body that has many
UNPARSED = "body: it cannot be parsed; send JSON with fewer levels, and numbers with fewer digits"


class Problem(BaseModel):
    """An answer that says what is wrong."""

    detail: str


type Responses = dict[int | str, dict[str, Any]]

PROBLEMS: Responses = {
    401: {"model": Problem, "description": "No valid key"},
    413: {"model": Problem, "description": "The body is too large"},
    422: {"model": Problem, "description": "A field is missing or wrong"},
    503: {"model": Problem, "description": "The database is unavailable"},
}

PUBLISHING: Responses = {
    400: {"model": Problem, "description": "The body cannot be read"},
    409: {"model": Problem, "description": "The id is known with other content"},
}


def missing(what: str) -> Responses:
    """Document that a route may not find what its address names."""
    return {404: {"model": Problem, "description": f"No such {what}"}}


def add_error_handlers(app: FastAPI) -> None:
    """Turn what routes raise into answers."""

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError), "registered for nothing else"  # noqa: S101 - narrows the type
        note_refused(error.errors())
        return problem(sentence_of(error.errors()), 422)

    async def unstorable(request: Request, error: Exception) -> JSONResponse:
        note_raised(error)
        return problem(str(error), 422)

    async def conflict(request: Request, error: Exception) -> JSONResponse:
        note_raised(error)
        return problem(str(error), 409)

    async def unavailable(request: Request, error: Exception) -> JSONResponse:
        note_raised(error)
        logfire.warn("The database is unavailable: {error}", error=str(error))
        return JSONResponse({"detail": UNAVAILABLE}, 503, {"Retry-After": RETRY_AFTER})

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException), "registered for nothing else"  # noqa: S101 - narrows the type
        note_raised(error)
        # The parser gives up on JSON with thousands of brackets in a row or digits in a number.
        unparsed = error.detail == FRAMEWORKS_UNPARSED
        error.detail = UNPARSED if unparsed else storable_json(error.detail)
        return await http_exception_handler(request, error)

    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(InvalidEvent, unstorable)
    app.add_exception_handler(EventConflict, conflict)
    app.add_exception_handler(DatabaseUnavailable, unavailable)


def problem(sentence: str, status: int) -> JSONResponse:
    """Return an answer that says what is wrong; what it quotes of the input may be anything."""
    return JSONResponse({"detail": storable(sentence)}, status)


def refuse_nul(*texts: str | None) -> None:
    """Refuse texts of the address that PostgreSQL would not even look for.

    Raises:
        InvalidEvent: one has a NUL character.
    """
    if any(text is not None and "\x00" in text for text in texts):
        raise InvalidEvent(
            "the address has a NUL character, which nothing stored has: leave it out"
        )


def sentence_of(errors: Any) -> str:
    """Say in one sentence, field by field, what a validation found."""
    said = "; ".join(_one(error) for error in errors[:SHOWN])
    return said if len(errors) <= SHOWN else f"{said}; and {len(errors) - SHOWN} more"


def _one(error: dict[str, Any]) -> str:
    types = event_types()
    allowed = ", ".join(public_types())
    place = [str(part) for part in error["loc"] if part != "body" and part not in types]
    field = ".".join(place) or "body"
    type_ = ".".join([*place, "type"])
    match error["type"]:
        case "union_tag_invalid":
            return f"{type_}: {error['ctx']['tag']!r} is no known event type; use one of {allowed}"
        case "union_tag_not_found":
            return f"{type_}: it is missing; use one of {allowed}"
        case "model_attributes_type" if not place:
            return "body: it is no JSON object; send one, with `Content-Type: application/json`"
        case "json_invalid":
            return "body: it is not valid JSON; send one JSON object"
        case "missing":
            return f"{field}: it is missing; add it"
        case kind if kind in NAME_THE_FIELD:
            return ".".join([*place, error["msg"]])
        case _:
            return f"{field}: {error['msg'][:1].lower()}{error['msg'][1:]}"
