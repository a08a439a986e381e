"""Trace and measure each request, in place of OpenTelemetry's middleware, which does more than is needed.

Names and attributes follow the default conventions of `opentelemetry-instrumentation-fastapi`.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import cache
from time import perf_counter
from typing import Any

import logfire
from opentelemetry import context, propagate, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.util.types import AttributeValue
from starlette.types import ASGIApp, Message, Receive, Scope, Send

UNTRACED_PATHS = frozenset({"/health", "/ready"})
"""Paths that health checks request every few seconds."""
CONSOLE, CONSOLE_FILES = "/console", "/console/static/"
METHODS = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"}
)
"""Known methods. A client may send any other word, which must not create another time series."""
WARN, ERROR = 13, 17  # OpenTelemetry's severity numbers, as Logfire stores them
METRIC_ATTRIBUTES = (
    "http.scheme",
    "http.host",
    "net.host.port",
    "http.flavor",
    "http.method",
    "http.server_name",
)
"""Attributes of a request that label its metrics."""

TRACER = trace.get_tracer(__name__)

_active = logfire.metric_up_down_counter(
    "http.server.active_requests", unit="{request}", description="Requests in progress"
)
_duration = logfire.metric_histogram(
    "http.server.duration", unit="ms", description="Duration of requests"
)
_request_size = logfire.metric_histogram(
    "http.server.request.size", unit="By", description="Size of request bodies"
)
_response_size = logfire.metric_histogram(
    "http.server.response.size", unit="By", description="Size of response bodies"
)

type Attributes = dict[str, AttributeValue]


class RequestTelemetry:
    """ASGI middleware that traces and measures HTTP requests, and traces WebSockets."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._routes = Routes()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request within a span that continues the caller's trace."""
        if scope["type"] not in {"http", "websocket"} or _is_untraced(scope):
            await self._app(scope, receive, send)
            return
        request = TracedRequest(scope, send, self._routes)
        token = context.attach(request.context)
        try:
            await self._app(scope, receive, request.send)
        except Exception as error:
            request.fail(error)
            raise
        finally:
            request.end()
            context.detach(token)


def _is_untraced(scope: Scope) -> bool:
    """Return whether a request is one of many that nobody made: a check, or a page that refreshes itself."""
    path: str = scope["path"]
    if path in UNTRACED_PATHS:
        return True
    if scope.get("method") != "GET" or not (path == CONSOLE or path.startswith(f"{CONSOLE}/")):
        return False
    refreshes = any(name == b"hx-request" for name, _ in scope["headers"])
    return path.startswith(CONSOLE_FILES) or refreshes


class TracedRequest:
    """One request, with its span and the state of its response."""

    def __init__(self, scope: Scope, send: Send, routes: "Routes") -> None:
        self._started_at = perf_counter()
        self._scope = scope
        self._send = send
        self._routes = routes
        self._headers = dict[bytes, bytes](scope["headers"])
        self._method = _method(scope)
        self._attributes = _attributes(scope, self._headers, self._method)
        self._status: int | None = None
        self._response_size: bytes | None = None
        self._ended = False
        parent = _caller_context(self._headers)
        name = "HTTP" if self._method in {None, "_OTHER"} else str(self._method)
        self._name = name
        self._span = TRACER.start_span(name, parent, SpanKind.SERVER, self._attributes)
        self.context = trace.set_span_in_context(self._span, parent)
        """The context in which the request is handled."""
        self._count(1)

    async def send(self, message: Message) -> None:
        """Send a message of the response; the span ends with the last one."""
        kind = message["type"]
        if kind == "http.response.start":
            self._status = message["status"]
            self._response_size = dict(message.get("headers", ())).get(b"content-length")
        elif kind == "websocket.send":
            self._status = 200
        await self._send(message)
        if kind == "http.response.body" and not message.get("more_body"):
            self.end()

    def fail(self, error: Exception) -> None:
        """Record an unhandled exception, which the server answers with 500."""
        if not self._ended:
            self._status = self._status or 500
            self._span.record_exception(error, escaped=True)
            self._span.set_attribute("logfire.level_num", ERROR)
            self._span.set_status(Status(StatusCode.ERROR))

    def end(self) -> None:
        """End the span and record the metrics, once."""
        if self._ended:
            return
        self._ended = True
        route = self._routes.of(self._scope)
        if self._span.is_recording():
            self._describe(self._span, route)
        self._span.end()
        self._count(-1)
        if self._method is not None:
            self._measure(route)

    def _describe(self, span: Span, route: str | None) -> None:
        name = f"{self._name} {route}" if route else self._name
        found: Attributes = {"logfire.msg": name}
        if route:
            found["http.route"] = route
        client = self._scope.get("caller")
        if client is not None and client.key:  # without a key, all clients share a name
            found["client"] = client.name
        if self._status is not None:
            found["http.status_code"] = self._status
            if 400 <= self._status < 500:
                found["logfire.level_num"] = WARN
        span.update_name(name)
        span.set_attributes(found)

    def _count(self, by: int) -> None:
        if self._method is not None:
            known = self._attributes
            kept = {key: known[key] for key in ("http.scheme", "http.flavor", "http.method")}
            _active.add(by, kept)

    def _measure(self, route: str | None) -> None:
        shared = {
            key: self._attributes[key] for key in METRIC_ATTRIBUTES if key in self._attributes
        }
        if self._status is not None:
            shared["http.status_code"] = self._status
        if route:
            shared["http.target"] = route
        _duration.record(round(1_000 * (perf_counter() - self._started_at)), shared, self.context)
        sizes = (
            (_request_size, self._headers.get(b"content-length")),
            (_response_size, self._response_size),
        )
        for histogram, size in sizes:
            if size and size.isdigit():
                histogram.record(int(size), shared, self.context)


class Routes:
    """The routes of an application by their endpoints: a request's scope has only its endpoint."""

    def __init__(self) -> None:
        self._known: dict[object, list[Any]] = {}

    def of(self, scope: Scope) -> str | None:
        """Return the path of the route that a request is for, such as `/events/{event_id}`."""
        endpoint = scope.get("endpoint")  # None if the request was rejected before routing
        if endpoint not in self._known:
            self._known = {endpoint: [], **_routes_of(scope["app"].routes)}
        found = self._known[endpoint] or self._known[None]
        if len(found) > 1:
            found = [route for route in found if route.path_regex.match(scope["path"])]
        return found[0].path if found else None


def _routes_of(routes: Iterable[Any]) -> dict[object, list[Any]]:
    """Return the routes of each endpoint, and all routes under None, with the prefixes of their routers."""
    found = defaultdict[object, list[Any]](list)
    for route in routes:
        included: Callable[[], Iterable[Any]] | None = getattr(
            route, "effective_route_contexts", None
        )
        for each in [route] if included is None else included():
            actual = getattr(each, "starlette_route", None) or each
            if hasattr(actual, "path_regex"):
                found[None].append(actual)
                found[getattr(actual, "endpoint", None)].append(actual)
    return dict(found)


def _method(scope: Scope) -> str | None:
    """Return the method, `_OTHER` if it is unknown; None for a WebSocket."""
    method = scope.get("method")
    return method if method is None or method in METHODS else "_OTHER"


def _attributes(scope: Scope, headers: dict[bytes, bytes], method: str | None) -> Attributes:
    server, client = scope.get("server") or ("", None), scope.get("client")
    named = headers.get(b"host", b"").decode("latin-1")
    host = named or str(server[0])
    path = scope["path"]
    attributes: Attributes = {
        "http.scheme": scope["scheme"],
        "http.host": host,
        "http.flavor": scope["http_version"],
        "http.target": path,
        "http.url": f"{scope['scheme']}://{host}{path}",  # without the query, which may have secrets
    }
    if server[1] is not None:
        attributes["net.host.port"] = server[1]
    if method:
        attributes["http.method"] = method
    if named:
        attributes["http.server_name"] = named
    if agent := headers.get(b"user-agent"):
        attributes["http.user_agent"] = agent.decode("latin-1")
    if client:
        attributes["net.peer.ip"], attributes["net.peer.port"] = client
    return attributes


def _caller_context(headers: dict[bytes, bytes]) -> context.Context | None:
    """Return the context of the caller's trace; None for the current context if there is none."""
    if _propagation_headers().isdisjoint(headers):
        return None
    names = {key.decode("latin-1"): value.decode("latin-1") for key, value in headers.items()}
    return _sampled(propagate.extract(names))


def _sampled(parent: context.Context) -> context.Context:
    """Return a caller's context as sampled: a caller must not disable the recording of its request."""
    caller = trace.get_current_span(parent).get_span_context()
    if not caller.is_valid or caller.trace_flags.sampled:
        return parent
    flags = trace.TraceFlags(caller.trace_flags | trace.TraceFlags.SAMPLED)
    sampled = trace.SpanContext(caller.trace_id, caller.span_id, True, flags, caller.trace_state)
    return trace.set_span_in_context(trace.NonRecordingSpan(sampled), parent)


@cache
def _propagation_headers() -> frozenset[bytes]:
    """Return the headers that the propagators of `OTEL_PROPAGATORS` read."""
    return frozenset(name.lower().encode() for name in propagate.get_global_textmap().fields)
