"""Authenticate clients by their keys, and check the roles that a route requires.

Without `API_KEYS` and `API_CLIENTS` every request is allowed. Production does not start that way.
"""

from functools import cache
from typing import TYPE_CHECKING, Annotated

from fastapi import HTTPException, Security, status
from fastapi.openapi.models import HTTPBearer
from fastapi.requests import HTTPConnection
from fastapi.security.base import SecurityBase

from ..config import Settings
from ..keys import Role
from .addresses import client_network
from .clients import ANONYMOUS_CLIENT, Client, Clients, allows_anonymous, find_key
from .deps import settings_of

if TYPE_CHECKING:
    from .rate_limits import RateLimits

CALLER = "caller"
"""The key of a request's ASGI scope that holds the client."""
FAILURE_COUNTED = "wrong key counted"
"""The key that marks a wrong key as counted: it is checked before the body is read, and by the route."""


class Bearer(SecurityBase):
    """Reject a request whose client is unknown or lacks a role; return the client to the route."""

    def __init__(
        self,
        roles: tuple[Role, ...] = (),
        *,
        scheme_name: str = "HTTPBearer",
        description: str = "A key of `API_KEYS`, or of a client of `API_CLIENTS`",
    ) -> None:
        self.model = HTTPBearer(description=description)
        self.scheme_name = scheme_name
        self.roles = roles

    async def __call__(self, request: HTTPConnection) -> Client:
        """Return the client that sends a request.

        Raises:
            HTTPException: the request has no valid key, or its client lacks a role.
        """
        client = client_of(request)
        if client is None:
            raise HTTPException(
                status.HTTP_401_UNAUTHORIZED,
                "Authorization: send a valid key as `Bearer <key>`",
                {"WWW-Authenticate": "Bearer"},
            )
        client.require(*self.roles)
        return client


require_key = Bearer()
"""Requires any valid key, whatever the roles of its client."""


@cache
def requires(*roles: Role) -> Bearer:
    """Return a dependency for clients with these roles: `Depends(requires("operate"))`."""
    return Bearer(roles)


Publisher = Annotated[Client, Security(requires("publish"))]
Reader = Annotated[Client, Security(requires("read"))]
Operator = Annotated[Client, Security(requires("operate"))]


def client_of(connection: HTTPConnection) -> Client | None:
    """Return the client that sends a request; None if it has no valid key.

    Raises:
        RateLimited: the address sent too many wrong keys.
    """
    if CALLER in connection.scope:
        client: Client | None = connection.scope[CALLER]
    else:  # an application without `BodyLimitMiddleware`
        header = connection.headers.get("authorization", "").encode("latin-1")
        client = Clients(settings_of(connection)).find(header)
    if client is None and require_key in connection.app.dependency_overrides:
        return ANONYMOUS_CLIENT  # tests disable authentication this way
    rates: RateLimits | None = getattr(connection.app.state, "rate_limits", None)
    wrong = client is None and "authorization" in connection.headers
    if wrong and rates is not None and FAILURE_COUNTED not in connection.scope:
        # Counted only on routes with keys: a public route of yours may use another authorization.
        connection.scope[FAILURE_COUNTED] = True
        rates.count_failed_login(client_network(connection.scope))
    return client


def key_of(settings: Settings, authorization: str | None) -> str | None:
    """Return the valid key of the header; "" if no key is required, None if the key is not valid."""
    return "" if allows_anonymous(settings) else find_key(settings, authorization)


def may_use_client(key: str, client_id: str) -> bool:
    """Return whether a key may connect as a WebSocket client; change it when keys belong to tenants."""
    return bool(client_id)
