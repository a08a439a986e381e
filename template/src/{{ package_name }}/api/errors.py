"""What a client is told when something is wrong: one sentence that names the field and the remedy."""

from typing import Any

import logfire
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from ..core.events import event_types, public_types
from ..infra.database import DatabaseUnavailable
from ..infra.store import EventConflict, InvalidEvent

RETRY_AFTER = "1"  # seconds
UNAVAILABLE = "The database is unavailable at the moment. Send it again: with the same id, nothing is stored twice."


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
        return JSONResponse({"detail": sentence_of(error.errors())}, 422)

    async def unstorable(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 422)

    async def conflict(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 409)

    async def unavailable(request: Request, error: Exception) -> JSONResponse:
        logfire.warn("The database is unavailable: {error}", error=str(error))
        return JSONResponse({"detail": UNAVAILABLE}, 503, {"Retry-After": RETRY_AFTER})

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(InvalidEvent, unstorable)
    app.add_exception_handler(EventConflict, conflict)
    app.add_exception_handler(DatabaseUnavailable, unavailable)


def sentence_of(errors: Any) -> str:
    """Say in one sentence, field by field, what a validation found."""
    return "; ".join(_one(error) for error in errors)


def _one(error: dict[str, Any]) -> str:
    types = event_types()
    allowed = ", ".join(public_types())
    place = [str(part) for part in error["loc"] if part != "body" and part not in types]
    field = ".".join(place) or "body"
    match error["type"]:
        case "union_tag_invalid":
            return f"type: {error['ctx']['tag']!r} is no known event type; use one of {allowed}"
        case "union_tag_not_found":
            return f"type: it is missing; use one of {allowed}"
        case "json_invalid":
            return "body: it is not valid JSON; send one JSON object"
        case "missing":
            return f"{field}: it is missing; add it"
        case _:
            return f"{field}: {error['msg'][:1].lower()}{error['msg'][1:]}"
