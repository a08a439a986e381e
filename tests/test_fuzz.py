"""The fuzzer itself: a service with a planted fault is found out, one without is not, and a seed repeats a round.

The fuzzer is no test of `make test`: it takes minutes, and what it finds depends on chance. So what it rests on is tested.
"""

import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import strategies as st
from websockets.sync.server import ServerConnection, serve

from fuzz import commands, frames, judge, request, requests
from fuzz.fault import Account, Fault
from fuzz.frames import BINARY, CLOSE, CONTINUED, PING, TEXT, Frame, Talk, messages
from fuzz.growth import Census
from fuzz.http import Http
from fuzz.ledger import Ledger, difference
from fuzz.request import Request
from fuzz.rounds import Door, explore
from fuzz.schema import Schema, cases, is_harmless
from fuzz.service import Log
from fuzz.terminal import Terminal
from fuzz.websocket import WebSocket
from soak.provider import JsonHandler

SEED, ROUNDS = 7, 6
DOCUMENT: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "A planted fault", "version": "1"},
    "paths": {
        "/events": {
            "get": {
                "parameters": [
                    {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1}}
                ],
                "responses": {"200": {"description": "All", "content": {"application/json": {}}}},
            }
        }
    },
}


class Pretended(ThreadingHTTPServer):
    """A service that keeps events in memory, with one fault."""

    daemon_threads = True
    fault = ""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.events: dict[str, dict[str, Any]] = {}

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return "127.0.0.1", self.server_port


class Handler(JsonHandler):
    """Answers as the service does, but for its fault."""

    server: Pretended  # pyright: ignore[reportIncompatibleVariableOverride] - it is no other
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Take an event in."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            event = json.loads(body, parse_constant=_refuse)
            json.dumps(event, ensure_ascii=False).encode()
            event = {"scope": "main", **event, "id": str(event["id"]), "type": str(event["type"])}
        except Exception:
            said = "wrong" if self.server.fault == "no field" else "body: it is no event; send one"
            self.answer(422, {"detail": said})
            return
        match self.server.fault:
            case "error" if "/" in event["id"]:
                self.answer(500, {"detail": "body: it is too much for us"})
            case "late":
                time.sleep(0.1)
                self._keep(event)
            case "lost":
                self.answer(200, {"id": event["id"], "status": "published"})
            case "changed" if "message" in event:
                self._keep({**event, "message": event["message"].strip()})
            case "limit":
                self.answer(503, {"detail": "memory: API_MAX_INTAKE_BYTES is met"})
            case "redirect":
                self.answer(307, {}, {"Location": f"http://{self.headers['Host']}/"})
            case "end":
                self.close_connection = True
            case _:
                self._keep(event)

    def _keep(self, event: dict[str, Any]) -> None:
        known = self.server.events.setdefault(event["id"], event)
        if known == event:
            self.answer(200, {"id": event["id"], "status": "published"})
        else:
            self.answer(409, {"detail": "id: it is known with other content"})

    def do_GET(self) -> None:
        """Return one event, or all."""
        path = urlsplit(self.path).path
        if path == "/events":
            events = [] if self.server.fault == "unlisted" else [*self.server.events.values()]
            status = 418 if self.server.fault == "undocumented" else 200
            self.answer(status, {"events": events, "before": None})
        elif event := self.server.events.get(unquote(path.removeprefix("/events/"))):
            self.answer(200, {"event": event})
        else:
            self.answer(404, {"detail": "event_id: there is no such event"})


def _refuse(name: str) -> None:
    raise ValueError(name)


@pytest.fixture
def service() -> Generator[Pretended]:
    with Pretended() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


plain = st.one_of(
    requests.publishing.filter(lambda sent: len(sent.body) < 10_000),
    st.text(max_size=5).map(
        lambda text: Request(
            "POST",
            b"/events",
            body=json.dumps(
                {"id": text + "/", "type": "error.reported", "message": f" {text}"}
            ).encode(),
        )
    ),
)
"""What the pretended service takes, which is no server to be attacked."""


def found(door: Door, account: Account) -> list[str]:
    """Try a door until it has a fault, or for a few rounds; return its kinds."""
    for number in range(ROUNDS):
        explore(door, SEED, number, account, lambda: True)
        if account.faults:
            break
    return [*account.faults]


def http_door(service: Pretended, account: Account) -> Door:
    ledger = Ledger(service.address, "fuzz")
    return Door("http", plain, Http(service.address, ledger, account).attempt, request.shown, 40)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("error", "answer 500"),
        ("lost", "unreadable"),
        ("unlisted", "unlisted"),
        ("changed", "content"),
        ("no field", "a refusal is no sentence that names the field (422)"),
        ("limit", "503 without a limit and Retry-After"),
        ("redirect", "redirection"),
        ("end", "no answer"),
        ("late", "hang"),
    ],
)
def test_a_planted_fault_is_found(
    service: Pretended, fault: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.fault = fault
    if fault == "late":
        monkeypatch.setattr(judge, "LATE", 0.05)

    assert found(http_door(service, account := Account()), account)[0] == kind


def test_a_service_without_a_fault_keeps_every_promise(service: Pretended) -> None:
    account = Account()
    door = http_door(service, account)

    assert found(door, account) == []
    assert account.answers["200"] > 10
    assert Ledger(service.address, "").missing() == []


def test_an_event_that_vanishes_later_is_missing_in_the_end(service: Pretended) -> None:
    ledger = Ledger(service.address, "")
    service.events["a"] = {"id": "a", "type": "x", "scope": "main"}
    ledger.accept("a", {"id": "a"})

    service.events.clear()

    assert ledger.missing() == ["a"]


def test_the_same_seed_and_round_give_the_same_examples() -> None:
    def tried(number: int) -> list[str]:
        examples: list[str] = []
        door = Door(
            "http", requests.requests, lambda it: examples.append(request.shown(it)), str, 20
        )
        explore(door, SEED, number, Account(), lambda: True)
        return examples

    assert tried(1) == tried(1) != tried(2)


def test_only_the_first_fault_of_a_kind_is_reported_and_others_are_counted() -> None:
    def fail(example: int) -> None:
        raise Fault("odd" if example % 2 else "even", str(example))

    account = Account()
    for number in range(3):
        explore(Door("x", st.integers(0, 9), fail, str, 20), SEED, number, account, lambda: True)

    assert {kind: said.split("\n")[0] for kind, said in account.faults.items()} == {
        "even": "0",
        "odd": "1",
    }
    assert account.again["even"] > 0


# WebSocket


@contextmanager
def talking(reply: str) -> Generator[tuple[str, int]]:
    """A service that answers each message with the same."""

    def answer(socket: ServerConnection) -> None:
        for _ in socket:
            socket.send(reply)

    with serve(answer, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host, port = server.socket.getsockname()
        yield host, port
        server.shutdown()


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ('{"ack": "never stored"}', "unreadable"),
        ('{"error": "wrong"}', "a message's refusal is no sentence with its field"),
        ("no JSON", "an answer is not understood: JSONDecodeError"),
    ],
)
def test_a_fault_of_a_websocket_is_found(service: Pretended, reply: str, kind: str) -> None:
    account = Account()
    message = Frame(TEXT, b'{"content": "hello"}')
    talks = st.integers(1, 3).map(lambda count: Talk("a", "", (), (message,) * count, "close"))

    with talking(reply) as address:
        socket = WebSocket(address, Ledger(service.address, ""), account)
        door = Door("websocket", talks, socket.attempt, frames.shown, 5)

        assert found(door, account) == [kind]


def test_messages_are_those_that_are_whole_and_within_the_protocol() -> None:
    parts = (Frame(TEXT, b"a", final=False), Frame(PING), Frame(CONTINUED, b"b"))
    whole = [message.data for message in messages((*parts, Frame(BINARY, b"c")))]

    assert whole == [b"ab", b"c"]
    assert messages((Frame(CLOSE), Frame(TEXT, b"a"))) == []
    assert messages((Frame(TEXT, b"a", masked=False),)) == []
    assert messages((Frame(TEXT, b"a", final=False), Frame(TEXT, b"b"))) == []


# The OpenAPI document


@pytest.mark.parametrize(
    ("fault", "kinds"),
    [
        ("", ["schema: Schema-violating request accepted, GET /events"]),
        ("undocumented", ["schema: Undocumented status code, GET /events"]),
    ],
)
def test_an_answer_that_the_document_does_not_have_is_found(
    service: Pretended, fault: str, kinds: list[str]
) -> None:
    service.fault = fault
    account = Account()
    host, port = service.address
    checked = Schema(f"http://{host}:{port}", Ledger(service.address, ""), account)

    assert found(Door("schema", cases(DOCUMENT), checked.attempt, str, 20), account) == kinds


@pytest.mark.parametrize(
    ("wrong", "harmless"),
    [
        ("s:\n  - query: violates `additionalProperties`\n  - header: violates `required`", True),
        (": parameter `type` in query - violates `type` at /properties/type", True),
        ("s:\n  - query: violates `anyOf`\n  - header: violates `format`", True),
        (": parameter `limit` in query - violates `minimum` at /properties/limit", False),
        (": body - violates `type` at /properties/source", False),
        ("s:\n  - query: violates `additionalProperties`\n  - body: violates `required`", False),
    ],
)
def test_a_value_of_an_address_is_a_text_whatever_type_it_was_meant_to_have(
    wrong: str, harmless: bool
) -> None:
    assert (
        is_harmless(f"Invalid data should have been rejected\nInvalid component{wrong}") is harmless
    )


# The command line


@pytest.mark.parametrize(
    ("program", "kind"),
    [
        ("raise ValueError", "traceback of stats"),
        ("sys.exit(3)", "exit code 3 of stats"),
        ("sys.exit(1)", "no sentence of stats"),
        ("sys.exit('one\\ntwo')", "more than one sentence of stats"),
        ("sys.exit('\\x1b[31mred')", "a sentence of stats commands the terminal"),
        ("sys.exit('my-agent: it does not work.')", None),
        ("print('ok')", None),
    ],
)
def test_a_command_that_ends_as_it_must_not_is_found(
    service: Pretended, program: str, kind: str | None, tmp_path: Path
) -> None:
    account = Account()
    command = (sys.executable, "-c", f"import sys; {program}")
    terminal = Terminal(command, {}, tmp_path, Ledger(service.address, ""), account)
    door = Door("x", st.just(commands.Command((b"stats",))), terminal.attempt, commands.shown, 1)

    explore(door, SEED, 0, account, lambda: True)

    assert [*account.faults] == ([kind] if kind else [])


# What is left behind


def test_a_traceback_in_the_log_is_a_fault_once(tmp_path: Path) -> None:
    file = tmp_path / "service.log"
    file.write_text("GET /x\n    Traceback (most recent call last):\n    ValueError: no\n")
    log = Log(file)

    with pytest.raises(Fault, match="traceback in the log: ValueError in a library"):
        log.check()
    log.check()


def test_more_tasks_files_or_connections_are_a_difference() -> None:
    early = Census(files=30, connections=0, tasks=Counter(follow=1))

    assert early.differences(early) == []
    assert early.differences(Census(60, 2, Counter(follow=2))) == [
        "task follow: 1 more",
        "open files: 30, then 60",
        "connections of clients: 2 are left",
    ]


@pytest.mark.parametrize(
    ("sent", "read", "field"),
    [
        ({"a": 1}, {"a": 1.0}, "a"),
        ({"a": [True]}, {"a": [1]}, "a"),
        ({"a": {"b": "x"}}, {"a": {"b": "x", "c": 1}}, "a"),
        ({"timestamp": "2024-01-01T00:00:00+01:00"}, {"timestamp": "2023-12-31T23:00:00Z"}, None),
        ({"timestamp": "2024-01-01T00:00:00Z"}, {"timestamp": "2024-01-01T00:00:01Z"}, "timestamp"),
        ({"meta": {"depth": 9}}, {"meta": {"depth": 0}}, None),
        ({"meta": {"correlation_id": "a"}}, {"meta": {"correlation_id": "b"}}, "meta"),
        ({"unknown": 1}, {}, None),
    ],
)
def test_content_is_compared_as_json_that_keeps_its_types(
    sent: dict[str, Any], read: dict[str, Any], field: str | None
) -> None:
    found = difference(sent, read, set())

    assert (found or "None").split(":")[0] == str(field)
