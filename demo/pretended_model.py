"""A model on this machine, for pictures of the console: it speaks OpenAI's protocol, with the answers that the pictures show."""

import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from typing import Any

from soak.provider import JsonHandler

ALERTS: dict[str, dict[str, Any]] = {
    "card processor": {
        "severity": "high",
        "summary": "Checkout cannot reach the card processor: five payments timed out within a minute.",
        "recommended_actions": [
            "Switch checkout to the second processor.",
            "Ask the processor for the state of its gateway.",
            "Retry the payments of the last ten minutes.",
        ],
    },
    "checkout": {
        "severity": "medium",
        "summary": "One customer's checkout failed five times, and each time at the address.",
        "recommended_actions": ["Look at the validation of addresses."],
    },
    "import": {"severity": "unknown", "summary": "It is not clear.", "recommended_actions": []},
}
"""What the model answers, by a part of the prompt. No severity is called unknown, so that decision fails."""
SLOW = "flaky build"  # a part of the prompt to which the model does not answer
PATIENCE = 120.0  # seconds until it then fails
REFUSED = "label printer"  # a part of the prompt that the model refuses
REFUSAL = "The request was rejected by the content policy of the provider."
FAILS_ONCE = "card processor"  # a part of the prompt whose second request fails the first time


class PretendedModel(ThreadingHTTPServer):
    """A server with a model."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.failed = False
        """Whether it has failed once."""
        self.stopped = threading.Event()

    @property
    def address(self) -> str:
        """The base of its URLs."""
        return f"http://127.0.0.1:{self.server_port}/v1"

    def answer(self, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Return a status and an answer to a request."""
        messages: list[dict[str, Any]] = request["messages"]
        prompt = str(next(each["content"] for each in messages if each["role"] == "user"))
        called = sum(each["role"] == "tool" for each in messages)
        if REFUSED in prompt:
            return 400, {"error": {"message": REFUSAL, "type": "invalid_request_error"}}
        if SLOW in prompt:
            self.stopped.wait(PATIENCE)
            return 503, {"error": {"message": "It took too long.", "type": "server_error"}}
        if FAILS_ONCE in prompt and called == 2 and not self.failed:
            self.failed = True
            return 400, {"error": {"message": REFUSAL, "type": "invalid_request_error"}}
        alert = next(each for part, each in ALERTS.items() if part in prompt)
        calls: list[tuple[str, dict[str, Any]]] = [
            ("get_recent_events", {"limit": 5}),
            ("create_incident_ticket", ticket(alert)),
            ("final_result", alert),
        ]
        name, arguments = calls[min(called, 2)]
        return 200, completion(name, arguments, len(json.dumps(messages)) // 4)


def ticket(alert: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of the tool that opens a ticket about an alert."""
    return {
        "title": "Checkout fails",
        "description": alert["summary"],
        "priority": alert["severity"],
    }


def completion(name: str, arguments: dict[str, Any], tokens: int) -> dict[str, Any]:
    """Return an answer that calls a tool."""
    function = {"name": name, "arguments": json.dumps(arguments)}
    call = {"id": f"call_{name}", "type": "function", "function": function}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": "gpt-5-mini",
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}],
        "usage": {"prompt_tokens": tokens, "completion_tokens": 64, "total_tokens": tokens + 64},
    }


class _Handler(JsonHandler):
    def do_POST(self) -> None:
        """Answer a request for a completion."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert isinstance(self.server, PretendedModel)  # noqa: S101 - it starts its own handlers only
        self.answer(*self.server.answer(json.loads(body)))


@contextmanager
def pretending() -> Generator[PretendedModel]:
    """Run a model for the block."""
    with PretendedModel() as model:
        threading.Thread(target=model.serve_forever, daemon=True).start()
        try:
            yield model
        finally:
            model.stopped.set()
            model.shutdown()
