"""Error responses: one sentence that names the field and the remedy."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import logfire
from fastapi import FastAPI, Request, Response
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from ..core.events import event_types, public_types
from ..infra.database import DatabaseUnavailable, ReadTooSlow
from ..infra.observability import note_raised, note_refusal, note_refused
from ..infra.store import EventConflict, InvalidEvent
from ..infra.text import header_value, one_line, shorten, storable, storable_json
from .headers import HEADERS

RETRY_AFTER = "1"  # seconds
POLICY_VIOLATION = 1008  # a close code of RFC 6455
FAILED = "The service failed: its log has the reason. Send it again: with the same id, nothing is stored twice."
UNAVAILABLE = "The database is unavailable at the moment. Send it again: with the same id, nothing is stored twice."
STARLETTE_PARSE_ERROR = "There was an error parsing the body"
STARLETTE_NOT_FOUND, STARLETTE_METHOD_NOT_ALLOWED = "Not Found", "Method Not Allowed"
OWN_ERROR_TYPES = frozenset({"scope", "internal", "reserved", "newer", "older"})
"""Types of the service's own validation errors, whose message names the field."""
MAX_ERRORS_SHOWN = 20  # errors of one body
MAX_ERROR_BYTES = 500  # of one error: it quotes names of fields, which may be as long as a body
MAX_QUOTE_BYTES = 100  # of a quoted value
UNPARSED = "body: it cannot be parsed; send JSON with fewer levels, and numbers with fewer digits"


class ErrorResponse(JSONResponse):
    """The response of an error, with control characters escaped: quoted input cannot affect a terminal."""

    def render(self, content: Any) -> bytes:
        """Return JSON of one line without control characters."""
        return one_line(json.dumps(content, ensure_ascii=False, separators=(",", ":"))).encode()


class Problem(BaseModel):
    """The body of an error response."""

    detail: str


type Responses = dict[int | str, dict[str, Any]]

PROBLEMS: Responses = {
    401: {"model": Problem, "description": "No valid key"},
    403: {"model": Problem, "description": "The client lacks a role, or may not use the scope"},
    408: {"model": Problem, "description": "The body was not complete in time"},
    413: {"model": Problem, "description": "The body is too large"},
    422: {"model": Problem, "description": "A field is missing or wrong"},
    429: {"model": Problem, "description": "The client exceeded a limit"},
    503: {
        "model": Problem,
        "description": "The database is unavailable or slow, or memory is full",
    },
}

PUBLISHING: Responses = {
    400: {"model": Problem, "description": "The body cannot be read"},
    409: {"model": Problem, "description": "The id is known with other content"},
}


def not_found(what: str) -> Responses:
    """Return the documentation of a 404 response."""
    return {404: {"model": Problem, "description": f"No such {what}"}}


class BatchValidationError(RequestValidationError):
    """Events of a batch are not valid: the first errors, and the number of further ones."""

    def __init__(self, errors: Sequence[Any], more: int) -> None:
        super().__init__(errors)
        self.more = more


def add_error_handlers(app: FastAPI) -> None:
    """Convert exceptions of routes to error responses."""

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError), "registered for nothing else"  # noqa: S101 - narrows the type
        found = error.errors()
        more = error.more if isinstance(error, BatchValidationError) else 0
        note_refused([_trace_attributes(each) for each in found[:MAX_ERRORS_SHOWN]])
        return problem(format_errors(found, more), 422)

    async def unstorable(request: Request, error: Exception) -> JSONResponse:
        note_refusal(error)
        return problem(str(error), 422)

    async def conflict(request: Request, error: Exception) -> JSONResponse:
        note_refusal(error)
        return problem(str(error), 409)

    async def unavailable(request: Request, error: Exception) -> JSONResponse:
        note_refusal(error)
        logfire.warn("The database is unavailable: {error}", error=str(error))
        sentence = f"{error}." if isinstance(error, ReadTooSlow) else UNAVAILABLE
        return ErrorResponse({"detail": sentence}, 503, {"Retry-After": RETRY_AFTER})

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException), "registered for nothing else"  # noqa: S101 - narrows the type
        if error.status_code >= 500 and error.status_code != 503:
            note_raised(error)
        error.detail = storable_json(_detail(request, error))
        note_refusal(error.detail)
        if error.headers:
            error.headers = {name: header_value(value) for name, value in error.headers.items()}
        answer = await http_exception_handler(request, error)
        if not answer.body:  # of a status that has none
            return answer
        return ErrorResponse({"detail": error.detail}, error.status_code, error.headers)

    async def failed(request: Request, error: Exception) -> Response:
        # Starlette sends this outside of all middleware, and logs the error afterwards.
        return problem(FAILED, 500, {name.decode(): value.decode() for name, value in HEADERS})

    app.add_exception_handler(Exception, failed)
    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(InvalidEvent, unstorable)
    app.add_exception_handler(EventConflict, conflict)
    app.add_exception_handler(DatabaseUnavailable, unavailable)


def problem(sentence: str, status: int, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Return an error response; quoted input in the sentence may be any text."""
    return ErrorResponse({"detail": storable(sentence)}, status, headers)


def error_response_of(error: HTTPException) -> JSONResponse:
    """Return the response for an exception that was raised outside of all routes."""
    return problem(error.detail, error.status_code, error.headers)


async def refuse(scope: Scope, receive: Receive, send: Send, answer: Response) -> None:
    """Send an error response to a request, or to a WebSocket's handshake if the server supports it."""
    if scope["type"] == "http" or "websocket.http.response" in scope.get("extensions", {}):
        await answer(scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": ""})


def _detail(request: Request, error: HTTPException) -> Any:
    """Return an error's detail; for errors of the framework, a sentence that names the field."""
    detail = error.detail
    # The parser rejects JSON with thousands of nested brackets, or of digits in a number.
    if detail == STARLETTE_PARSE_ERROR:
        return UNPARSED
    if detail == STARLETTE_NOT_FOUND:
        path = shorten(request.scope["path"], MAX_QUOTE_BYTES)
        return f"path: {path!r} does not exist; use a path of the documentation"
    if detail == STARLETTE_METHOD_NOT_ALLOWED:
        allowed = (error.headers or {}).get("Allow", "another one")
        method = shorten(request.method, MAX_QUOTE_BYTES)
        return f"method: {method} is not allowed here; use {allowed}"
    return detail


def refuse_nul(*texts: str | None) -> None:
    """Reject parameters with a NUL character, which PostgreSQL does not accept in a query.

    Raises:
        InvalidEvent: one has a NUL character.
    """
    if any(text is not None and "\x00" in text for text in texts):
        raise InvalidEvent(
            "address: it has a NUL character, which nothing stored has; leave it out"
        )


def format_errors(errors: Any, more: int = 0) -> str:
    """Return one sentence with the validation errors by field, and the number of further ones."""
    shown = "; ".join(
        shorten(_error_sentence(error), MAX_ERROR_BYTES) for error in errors[:MAX_ERRORS_SHOWN]
    )
    more += max(0, len(errors) - MAX_ERRORS_SHOWN)
    return f"{shown}; and {more} more" if more else shown


def _trace_attributes(error: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes of an error for the trace."""
    place = [
        part if isinstance(part, int) else shorten(part, MAX_QUOTE_BYTES) for part in error["loc"]
    ]
    return {"loc": place, "type": error["type"], "msg": shorten(error["msg"], MAX_ERROR_BYTES)}


def _error_sentence(error: dict[str, Any]) -> str:
    types = event_types()
    allowed = ", ".join(public_types())
    loc = (shorten(str(part), MAX_QUOTE_BYTES) for part in error["loc"])
    place = [part for part in loc if part != "body" and part not in types]
    field = ".".join(place) or "body"
    type_ = ".".join([*place, "type"])
    match error["type"]:
        case "union_tag_invalid":
            tag = shorten(error["ctx"]["tag"], MAX_QUOTE_BYTES)
            return f"{type_}: {tag!r} is not a known event type; use one of {allowed}"
        case "union_tag_not_found":
            return f"{type_}: it is missing; use one of {allowed}"
        case "model_attributes_type" if not place:
            return "body: it is not a JSON object; send one, with `Content-Type: application/json`"
        case "json_invalid":
            return "body: it is not valid JSON; send one JSON object"
        case "missing":
            return f"{field}: it is missing; add it"
        case "too_long" if error["loc"][0] == "query":
            given, most = error["ctx"]["actual_length"], error["ctx"]["max_length"]
            return f"{place[-1]}: it is given {given} times; give it at most {most} times"
        case kind if kind in OWN_ERROR_TYPES:
            return ".".join([*place, error["msg"]])
        case _:
            return f"{field}: {error['msg'][:1].lower()}{error['msg'][1:]}"
