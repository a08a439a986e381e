"""Check the host, client and body of every request, and set headers on its response."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..config import Settings
from . import usage
from .addresses import TrustedProxies, client_network
from .allowed_hosts import AllowedHosts
from .auth import CALLER
from .clients import Client, Clients
from .errors import RETRY_AFTER, error_response_of, problem, refuse
from .headers import DOCS_HEADERS, HEADERS, with_defaults
from .memory_limiter import MemoryLimiter
from .rate_limits import RateLimited, RateLimits
from .request_body import BodyPolicy, LimitedBody
from .sessions import Sessions, headers_of

DOCS_PATHS = ("/docs", "/docs/oauth2-redirect")
"""The paths of the API's documentation in development."""
TOO_MANY_REQUESTS = (
    "address: you have too many requests in progress (API_MAX_PER_ADDRESS); send fewer at once"
)
PATH_SAFE = "/!$&'()*+,;=:@"  # characters of a path that RFC 3986 allows unescaped


class BodyLimitMiddleware:
    """Limit each client's requests and each request's body, before a route handles them."""

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        rates: RateLimits,
        memory: MemoryLimiter,
        max_bytes_by_endpoint: Mapping[Any, int],
        sessions: Sessions | None,
    ) -> None:
        self._app = app
        self._rate_limits = rates
        self._clients = Clients(settings, rates)
        self._sessions = sessions
        self._body_policy = BodyPolicy(settings, memory, max_bytes_by_endpoint)
        self._proxies = TrustedProxies(settings)
        self._allowed_hosts = AllowedHosts(settings)
        self._docs = DOCS_PATHS if settings.lenient else ()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request or WebSocket; count requests of each client behind a proxy."""
        if scope["type"] == "lifespan" or not self._proxies.resolve_client(scope):
            await self._handle(scope, receive, send)
            return
        # Without a proxy, `ConnectionLimiter` counts the connections of each client instead.
        with self._proxies.track_request(scope) as admitted:
            if admitted:
                await self._handle(scope, receive, send)
            else:
                wait = {"Retry-After": RETRY_AFTER}
                await refuse(scope, receive, send, problem(TOO_MANY_REQUESTS, 429, wait))

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = headers_of(scope)
        if refusal := self._allowed_hosts.refusal(headers.get(b"host", b"")):
            await refuse(scope, receive, self._with_headers(scope, send), problem(refusal, 400))
            return
        try:
            scope[CALLER] = await self._authenticate(scope, headers)
        except RateLimited as error:
            await refuse(scope, receive, self._with_headers(scope, send), error_response_of(error))
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        body = LimitedBody(scope, receive, self._body_policy)
        try:
            await self._app(scope, body.receive, self._with_headers(scope, send))
        finally:
            body.release()

    async def _authenticate(self, scope: Scope, headers: Mapping[bytes, bytes]) -> Client | None:
        """Count a request and return its client; None if it has neither a valid key nor a session.

        Raises:
            RateLimited: the client, or its address, exceeded a limit.
        """
        address = client_network(scope)
        client = self._clients.find(headers.get(b"authorization"), address)
        if client is not None and not self._clients.anonymous:
            self._rate_limits.check_login(client.name, address)
        elif self._sessions is not None:
            client = await self._sessions.find(scope, headers) or client
        if client is None:
            self._rate_limits.count_anonymous_request(address)
            return None
        self._rate_limits.count_request(client.rate_key)
        usage.requests.add(client)
        return client

    def _with_headers(self, scope: Scope, send: Send) -> Send:
        headers = DOCS_HEADERS if scope["path"] in self._docs else HEADERS

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = message.get("headers", ())
                if message["status"] == 307 and "endpoint" not in scope:
                    given = [(b"location", _redirect_target(scope)), (b"content-length", b"0")]
                message["headers"] = with_defaults(given, headers)
            await send(message)

        return send_with_headers


def _redirect_target(scope: Scope) -> bytes:
    """Return the target of a redirect that adds or removes a trailing slash, without a host.

    Starlette's own redirect repeats the `Host` header, which the client controls.
    """
    path = scope["path"]
    other = path.rstrip("/") if path.endswith("/") else f"{path}/"
    target = quote("/" + other.lstrip("/"), safe=PATH_SAFE)
    return target.encode() + (b"?" + scope["query_string"] if scope["query_string"] else b"")
