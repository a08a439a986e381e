"""Requests of every kind, as bytes: right, nearly right, and no requests at all."""

from dataclasses import replace
from gzip import compress

from hypothesis import strategies as st

from .events import batches, encoded, event_texts
from .hostile import combined, ids, json_values, texts, traceparents
from .request import DEFAULTS, Raw, Request, header_value, in_path

METHODS = (
    "GET",
    "POST",
    "DELETE",
    "HEAD",
    "OPTIONS",
    "PUT",
    "PATCH",
    "TRACE",
    "CONNECT",
    "QUERY",
    "gET",
    "X" * 60,
)
KINDS = (
    "application/json",
    "application/json; charset=utf-16",
    "text/plain",
    "application/xml",
    "a/b;c",
    "",
)
CURSORS = (
    *("0", "1:1:~1:1:~0.0", "5:3:~5:3:~1.1", "1:9:2,2~1:9:~1.1", "1:1:~1:1:~9.", "~", "x" * 30_000),
    *("9" * 19 + ":" + "9" * 19 + ":~1:1:~0.0", "1:10:1,2,3~1:10:~2.7", "\u0661:\u0661:~1:1:~0.0"),
)
PROXIES = (
    "127.0.0.1",
    "::1",
    "1.2.3.4, 5.6.7.8",
    "for=1.2.3.4;proto=https",
    "' OR 1=1",
    "\x80",
    "," * 500,
)
NUMBERS = ("0", "1", "1000", "1001", "-1", "1e3", "9" * 30, "\u0665", "", "NaN", "1.0", " 1", "0x1")

json_bodies = st.one_of(event_texts(), json_values)
publishing = st.one_of(event_texts(), json_bodies).map(
    lambda body: Request("POST", b"/events", body=encoded(body))
)
batching = batches().map(lambda body: Request("POST", b"/events/batch", body=encoded(body)))

parameters = st.one_of(
    st.tuples(st.just("limit"), st.sampled_from(NUMBERS)),
    st.tuples(st.just("before"), st.one_of(st.sampled_from(NUMBERS), st.sampled_from(CURSORS))),
    st.tuples(st.sampled_from(("type", "scope", "subscriber", "key", "after")), texts),
    st.tuples(texts, texts),
)
queries = st.one_of(
    st.just(""),
    st.lists(parameters, max_size=4).map(
        lambda pairs: "?" + "&".join(f"{in_path(name)}={in_path(value)}" for name, value in pairs)
    ),
    st.integers(45, 60).map(lambda count: "?" + "type=x&" * count),
    st.integers(1_000, 60_000).map(lambda count: "?scope=" + "y" * count),
    texts.map(lambda text: "?" + in_path(text)),
)
paths = st.one_of(
    st.sampled_from(
        (
            "/events",
            "/events/",
            "/events/dlq",
            "/health",
            "/ready",
            "/docs",
            "/openapi.json",
            "/nothing",
            "/",
            "//x/events/",
            "/events//",
        )
    ),
    ids.map(lambda text: "/events/" + in_path(text)),
    ids.map(lambda text: "/events/dlq/" + in_path(text)),
    texts.map(lambda text: "/" + in_path(text)),
)
reading = combined(lambda path, query: Request("GET", (path + query).encode()), paths, queries)
streaming = combined(
    lambda cursor, query: Request(
        "GET",
        f"/events/stream{query}".encode(),
        (*DEFAULTS, (b"Last-Event-ID", header_value(cursor))),
    ),
    st.one_of(st.sampled_from(CURSORS), texts),
    queries,
)
looking_after = combined(
    lambda method, event_id, more, query: Request(
        method, f"/events/dlq{'/' + in_path(event_id) if event_id else ''}{more}{query}".encode()
    ),
    st.sampled_from(("GET", "POST", "DELETE")),
    ids,
    st.sampled_from(("", "/retry", "/")),
    queries,
)
anything = combined(
    lambda method, path, query, body: Request(method, (path + query).encode(), body=encoded(body)),
    st.sampled_from(METHODS),
    paths,
    queries,
    st.one_of(st.just(""), json_bodies),
)

more_headers = st.one_of(
    st.sampled_from(KINDS).map(lambda kind: (b"Content-Type", kind.encode())),
    traceparents.map(lambda text: (b"traceparent", header_value(text))),
    texts.map(lambda text: (b"tracestate", header_value(text))),
    texts.map(lambda text: (b"baggage", header_value(text))),
    st.tuples(
        st.sampled_from(
            (
                b"X-Forwarded-For",
                b"Forwarded",
                b"X-Forwarded-Proto",
                b"X-Real-IP",
                b"Host",
                b"X-HTTP-Method-Override",
                b"X-Forwarded-Host",
            )
        ),
        st.sampled_from(PROXIES).map(lambda text: text.encode("latin-1")),
    ),
    st.sampled_from(
        (
            (b"Content-Encoding", b"gzip"),
            (b"Content-Encoding", b"br"),
            (b"Expect", b"100-continue"),
            (b"Upgrade", b"h2c"),
            (b"Range", b"bytes=0-1"),
            (b"Accept", b"x/y"),
            (b"TE", b"trailers"),
            (b"Cookie", b"a=" + b"x" * 4_000),
            (b"Origin", b"null"),
            (b"X-Big", b"y" * 60_000),
        )
    ),
    texts.map(lambda text: (b"Authorization", b"Bearer " + header_value(text))),
    texts.map(lambda text: (b"User-Agent", header_value(text))),
    texts.map(lambda text: (b"X-Any", header_value(text))),
)


@st.composite
def changed(draw: st.DrawFn, requests: st.SearchStrategy[Request]) -> Request:
    """Make a request, and change how it is sent."""
    request = draw(requests)
    headers = list(request.headers)
    if request.body and draw(st.integers(0, 9)) < 9:
        headers.append((b"Content-Type", b"application/json"))
    if draw(st.booleans()):
        headers += draw(st.lists(more_headers, max_size=3))
    if draw(st.integers(0, 29)) == 29:
        headers.remove((b"Authorization", b"Bearer fuzz"))
    body = request.body
    if body and draw(st.integers(0, 19)) == 19:
        body = draw(
            st.sampled_from(
                (
                    compress(body, mtime=0),
                    b"\xef\xbb\xbf" + body,
                    body.decode("latin-1").encode("utf-16"),
                    body[:-1],
                    b"\xff" + body,
                )
            )
        )
    way = draw(st.sampled_from(("whole",) * 10 + ("chunked", "slow", "half", "twice", "crowd")))
    return replace(request, headers=tuple(headers), body=body, way=way, cut=draw(st.floats(0, 1)))


BROKEN = (
    b"GET / HTTP/9.9\r\n\r\n", b"\r\n\r\n\r\n", b"\0" * 100, b"\x16\x03\x01\x02\x00\x01", b"GET\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost : x\r\n\r\n", b"GET /health HTTP/1.1\r\n folded: x\r\n\r\n",
    b"POST /events HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    b"POST /events HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /events HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"POST /events HTTP/1.1\r\nContent-Length: +1\r\n\r\nx",
    b"POST /events HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
    b"POST /events HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /health HTTP/1.1\nHost: x\n\n", b"GET http://other/health HTTP/1.1\r\nHost: x\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", b"GET \xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /health HTTP/1.1\r\n" + b"A: b\r\n" * 9_000 + b"\r\n", b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
    b"GET /health HTTP/1.1\r\nConnection: close\r\nUpgrade: websocket\r\n\r\n",
    b"GET /ws/x HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 99\r\n\r\n",
)  # fmt: skip


raw = st.one_of(st.sampled_from(BROKEN), st.binary(max_size=200)).map(
    lambda data: Raw("GET", b"", (), data, wrong=True)
)
requests = st.one_of(
    changed(publishing), changed(publishing), changed(publishing), changed(publishing),
    changed(batching), changed(batching), changed(reading), changed(reading),
    changed(streaming), changed(looking_after), changed(anything), raw,
)  # fmt: skip
