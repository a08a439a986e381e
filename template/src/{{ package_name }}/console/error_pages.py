"""Errors of the console's routes as pages with one sentence; other routes keep their JSON."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import WebSocketRequestValidationError
from starlette.exceptions import HTTPException

from ..api.auth import CALLER
from ..api.errors import STARLETTE_NOT_FOUND, UNAVAILABLE
from ..api.sessions import is_console
from .access import LoginRequired
from .login import LOGIN_PATH
from .navigation import url
from .render import page, redirect

KEPT_HEADERS = ("allow", "retry-after", "www-authenticate")
NO_PAGE = "The console has no page at this address."
UNREAD = "The database does not answer. Reload the page in a moment."
NOT_DONE = "The database does not answer. Go back and send the form again in a moment."
READING = frozenset({"GET", "HEAD"})
FROM_ELSEWHERE = frozenset({"cross-site", "same-site"})
TITLES = {
    401: "Log in first",
    403: "Not allowed",
    404: "Not found",
    409: "Conflict",
    413: "Too large",
    422: "Not valid",
    429: "Too many requests",
    500: "The service failed",
    503: "Unavailable",
}

type Handler = Callable[[Any, Any], Any]


def add_error_pages(app: FastAPI) -> None:
    """Let each exception handler of the application answer with a page where a page was requested."""
    for kind, handler in list(app.exception_handlers.items()):
        if kind is not WebSocketRequestValidationError:
            app.add_exception_handler(kind, _as_page(handler))


def _as_page(handler: Handler) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def handle(request: Request, error: Exception) -> Response:
        if request.scope["type"] != "http" or not is_console(request.scope["path"]):
            return await handler(request, error)
        if isinstance(error, LoginRequired) and _wants_page(request):
            return _to_login(request)
        if isinstance(error, HTTPException) and error.detail == STARLETTE_NOT_FOUND:
            error.detail = NO_PAGE
        return _error_page(request, await handler(request, error))

    return handle


def _wants_page(request: Request) -> bool:
    """Return whether a browser shows the response as a page of its own, so that it can log in there."""
    live = "text/event-stream" in request.headers.get("accept", "")
    return request.method in READING and "hx-request" not in request.headers and not live


def _to_login(request: Request) -> Response:
    """Lead to the login, which leads on a browser with a session.

    From a link of another site, a browser sends no cookie, and neither where it is redirected to. It sends the cookie
    when a page of ours leads it on.
    """
    path, query = request.url.path, request.url.query
    address = url(LOGIN_PATH, next=f"{path}?{query}" if query else path)
    if request.headers.get("sec-fetch-site") in FROM_ELSEWHERE:
        return page(request, None, "enter.html", address=address)
    return redirect(address)


def _sentence(request: Request, detail: str) -> str:
    """Return the sentence of an error, whose remedy is for a person at a page."""
    if detail != UNAVAILABLE:
        return detail
    return UNREAD if request.method in READING else NOT_DONE


def _error_page(request: Request, answer: Response) -> Response:
    """Return a page with the sentence of an error response."""
    if not answer.body:
        return answer
    status = answer.status_code
    return page(
        request,
        request.scope.get(CALLER),
        "error.html",
        status=status,
        headers={name: answer.headers[name] for name in KEPT_HEADERS if name in answer.headers},
        heading=TITLES.get(status, f"Error {status}"),
        sentence=_sentence(request, str(json.loads(bytes(answer.body))["detail"])),
    )
