"""Who may use the console: the client of a request, and forms that only its own pages can send.

A route names the roles that it needs by the type of its client: `Viewer`, `OperatorOf` or `PublisherOf`. A route that
changes something reads its form by `FormOf`, which checks that a page of this service sent it.
"""

from functools import cache
from hashlib import blake2b
from hmac import compare_digest
from secrets import token_urlsafe
from typing import Annotated
from urllib.parse import parse_qs

from fastapi import Depends, HTTPException, Request, Response, Security
from fastapi.requests import HTTPConnection

from ..api.auth import Bearer, client_of
from ..api.clients import Client
from ..api.deps import settings_of
from ..api.sessions import (
    SESSION,
    Session,
    cookie_name,
    cookie_of,
    headers_of,
    is_other_origin,
)
from ..core.units import Seconds
from ..keys import Role
from .exact import decoded

FORM_TYPE = "application/x-www-form-urlencoded"
TOKEN_FIELD = "token"  # noqa: S105 - the name of a field
MAX_FORM_BYTES = 32_000
MAX_FIELDS = 500
FORM_SECRET = "console form"  # noqa: S105 - a key of the ASGI scope
STALE_FORM = "This form is no longer valid: go back, reload the page, and send it again."
OTHER_ORIGIN = "A page of another site sent this form: send it from this console."


class LoginRequired(HTTPException):
    """The request has neither a session nor a valid key."""

    def __init__(self) -> None:
        super().__init__(401, "Log in first.", {"WWW-Authenticate": "Bearer"})


class ConsoleAccess(Bearer):
    """Return the client of a request for a page; reject one that is unknown or lacks a role."""

    async def __call__(self, request: HTTPConnection) -> Client:
        """Return the client that requests a page.

        Raises:
            LoginRequired: the request has neither a session nor a valid key.
            HTTPException: its client lacks a role.
        """
        client = client_of(request)
        if client is None:
            raise LoginRequired
        client.require(*self.roles)
        return client


@cache
def needs(*roles: Role) -> ConsoleAccess:
    """Return a dependency for pages that require these roles."""
    return ConsoleAccess(roles)


Viewer = Annotated[Client, Security(needs("read"))]
OperatorOf = Annotated[Client, Security(needs("read", "operate"))]
PublisherOf = Annotated[Client, Security(needs("read", "publish"))]


class Form:
    """The fields of a form; those that travel encoded (see `exact`) are decoded."""

    def __init__(self, fields: dict[str, list[str]]) -> None:
        self._fields = fields

    def get(self, name: str, default: str = "") -> str:
        """Return the first value of a field."""
        return self._fields.get(name, [default])[0]

    def all(self, name: str) -> list[str]:
        """Return all values of a field."""
        return self._fields.get(name, [])

    def __contains__(self, name: str) -> bool:
        return name in self._fields


async def read_form(request: Request) -> Form:
    """Return the fields of a form that a page of this service sent to this browser.

    Raises:
        HTTPException: another page sent it, the body is not a form, or an encoded value was changed.
    """
    if is_other_origin(headers_of(request.scope)):
        raise HTTPException(403, OTHER_ORIGIN)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM_TYPE:
        raise HTTPException(415, f"Send the form as {FORM_TYPE}.")
    body = await request.body()
    try:
        text = body.decode()
        fields = parse_qs(text, keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:  # not UTF-8, or too many fields
        raise HTTPException(422, "The form cannot be read.") from None
    form = Form(decoded(fields))
    if not compare_digest(form.get(TOKEN_FIELD).encode(), form_token(request).encode()):
        raise HTTPException(403, STALE_FORM)
    return form


FormOf = Annotated[Form, Depends(read_form)]


def form_token(request: Request) -> str:
    """Return the token of the forms for this browser, derived from a cookie that other sites cannot read."""
    secret = _form_secret(request)
    return blake2b(secret.encode(), digest_size=24, person=b"console form").hexdigest()


def set_form_cookie(request: Request, response: Response) -> None:
    """Give a browser without a session the cookie that its forms are bound to."""
    if request.scope.get(SESSION) is None and not _sent_form_cookie(request):
        set_cookie(request, response, _form_cookie(request), _form_secret(request))


def set_cookie(
    request: Request, response: Response, name: str, value: str, lifetime: Seconds | None = None
) -> None:
    """Set a cookie that no script reads and no other site sends, by default for as long as a session may last."""
    seconds = settings_of(request).console_session if lifetime is None else lifetime
    secure = request.scope["scheme"] == "https"
    response.set_cookie(
        name, value, int(seconds), path="/", secure=secure, httponly=True, samesite="strict"
    )


def delete_cookie(request: Request, response: Response, name: str) -> None:
    """Delete a cookie of `set_cookie`."""
    secure = request.scope["scheme"] == "https"
    response.delete_cookie(name, path="/", secure=secure, httponly=True, samesite="strict")


def session_of(request: HTTPConnection) -> Session | None:
    """Return the session of a request; None if its client is known otherwise."""
    return request.scope.get(SESSION)


def _form_secret(request: Request) -> str:
    if (session := session_of(request)) is not None:
        return session.cookie
    if FORM_SECRET not in request.scope:
        request.scope[FORM_SECRET] = _sent_form_cookie(request) or token_urlsafe(24)
    return request.scope[FORM_SECRET]


def _sent_form_cookie(request: Request) -> str:
    return cookie_of(request.scope, headers_of(request.scope), _form_cookie(request))


def _form_cookie(request: Request) -> str:
    return cookie_name(request.scope, "form")
