"""A provider of models that speaks OpenAI's chat protocol, calls a tool, and fails in every way of the plan."""

import json
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SLOW = 5.0  # seconds that a slow answer takes
TOOL = "count_actions"  # of the soak's agent, see inside/agent/triggers.py
REFUSALS: dict[str, tuple[int, dict[str, str]]] = {
    "429": (429, {"Retry-After": "3"}),
    "429 until": (429, {}),  # a time since 1970, see below
    "429 absurd": (429, {"Retry-After": "99999999999999"}),
    "500": (500, {}),
    "401": (401, {}),
}


class Provider:
    """How the provider fares; empty while it is well, else one of the plan's outages."""

    def __init__(self) -> None:
        self.outage = ""
        self.asked = 0
        self.refused = 0
        self.url = ""
        self.over = threading.Event()
        """The run is over: what hangs may end."""


@contextmanager
def providing() -> Generator[Provider]:
    """Run the provider for the block, in threads of its own."""
    provider = Provider()

    class Handler(_Handler):
        here = provider

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        provider.url = f"http://127.0.0.1:{server.server_port}/v1"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield provider
        finally:
            provider.over.set()
            server.shutdown()


class JsonHandler(BaseHTTPRequestHandler):
    """Answers with JSON, and logs nothing."""

    def answer(self, status: int, body: object, headers: Mapping[str, str] | None = None) -> None:
        """Send an answer."""
        text = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def handle(self) -> None:
        """Answer requests; a client that went away is not news."""
        try:
            super().handle()
        except ConnectionError:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


class _Handler(JsonHandler):
    here: Provider

    def do_POST(self) -> None:
        """Answer a request as the provider fares just now."""
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.here.asked += 1
        outage = self.here.outage
        match outage:
            case "down":
                self.close_connection = True  # without an answer
            case "hang":
                self.here.over.wait()
            case "" | "slow":
                time.sleep(SLOW if outage else 0)
                self.answer(200, _completion(request))
            case _:
                self.here.refused += 1
                status, headers = REFUSALS[outage]
                if outage == "429 until":
                    headers = {"Retry-After": str(int(time.time()) + 3)}
                error = {"message": f"the soak says {outage}", "type": "soak", "code": "soak"}
                self.answer(status, {"error": error}, headers)


def _completion(request: dict[str, Any]) -> dict[str, Any]:
    """Call the tool first, and answer once its result is among the messages."""
    if request["messages"][-1]["role"] == "tool":
        message: dict[str, Any] = {"role": "assistant", "content": "counted"}
        reason = "stop"
    else:
        call = {"name": TOOL, "arguments": "{}"}
        calls = [{"id": f"call-{time.time_ns()}", "type": "function", "function": call}]
        message = {"role": "assistant", "content": None, "tool_calls": calls}
        reason = "tool_calls"
    return {
        "id": "answer",
        "object": "chat.completion",
        "created": 0,
        "model": "tester",
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        "usage": {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30},
    }
