"""What hostile clients send to a service: large events, JSON of many small values, streams that nobody reads."""

import json
import socket
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx2

LARGE = 900_000  # bytes of an event; a body may have a million
AT_ONCE = 8  # requests


def event(number: int, scope: str, body: dict[str, Any]) -> dict[str, Any]:
    """An event that the filters of the example agent pass."""
    path = f"/{number}/failed"
    source = {"source": "attack", "scope": scope}
    return {"type": "http.request", "method": "GET", "path": path, "body": body, **source}


def large(number: int, scope: str) -> dict[str, Any]:
    """An event of one long text, which differs from the others so that none is taken for a repetition."""
    return event(number, scope, {"text": str(number % 10) * LARGE})


def boxes(number: int, scope: str) -> dict[str, Any]:
    """An event that takes forty times as much memory as text."""
    return event(number, scope, {"values": [{}] * (LARGE // 4)})


def post_all(client: httpx2.Client, events: Iterator[dict[str, Any]]) -> int:
    """Publish events, several at once; return how many were accepted."""

    def post(each: dict[str, Any]) -> bool:
        text = json.dumps(each, separators=(",", ":"))
        answer = client.post("/events", content=text, headers={"Content-Type": "application/json"})
        assert answer.status_code in {200, 503}, answer.text[:500]
        return answer.is_success

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return sum(pool.map(post, events))


def together(work: Callable[[], httpx2.Response], times: int) -> list[httpx2.Response]:
    """Send the same request many times at once."""
    with ThreadPoolExecutor(times) as pool:
        sent = [pool.submit(work) for _ in range(times)]
        return [each.result() for each in sent]


@contextmanager
def unread_streams(port: int, key: str, count: int, last: str = "") -> Generator[None]:
    """Keep streams of events open for the block, and read nothing of them."""
    lines = ["GET /events/stream HTTP/1.1", "Host: localhost", f"Authorization: Bearer {key}"]
    lines += [f"Last-Event-ID: {last}"] if last else []
    request = "\r\n".join([*lines, "", ""]).encode()
    with ExitStack() as stack:
        for _ in range(count):
            stream = stack.enter_context(socket.socket())
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            stream.connect(("127.0.0.1", port))
            stream.sendall(request)
        yield
