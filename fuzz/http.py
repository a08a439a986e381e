"""The door HTTP: each request is answered in time, as it must be, and what is accepted can be read."""

import json
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import unquote

from .events import sent_events
from .fault import Account, Fault
from .judge import in_time, judge
from .ledger import Ledger
from .request import Request
from .wire import Address, Answer, connected, exchange, send

CROWD = 30  # connections with half a request each, while a whole one is answered
PUBLISHED = {"/events", "/events/batch"}


@dataclass(frozen=True)
class Http:
    """Sends requests, and judges the answers."""

    address: Address
    ledger: Ledger
    account: Account

    def attempt(self, request: Request) -> None:
        """Send a request.

        Raises:
            Fault: the service did not do what it must.
        """
        self.account.try_one("requests")
        if request.way == "half" or request.wrong:
            self._leave(request)
            return
        most = 2 if request.way == "twice" else 1
        answers = in_time(lambda: self._answers(request, most), _slowest, self.account)
        if not answers:
            raise Fault("no answer", "the connection ended without one, twice")
        for answer in answers:
            self.account.count(str(answer.status))
            judge(answer, ready=request.path == "/ready")
            _refuse_echo(answer)
        if answers[0].status == 200 and request.path in PUBLISHED and request.method == "POST":
            self._look_up(request, answers[0])

    def _answers(self, request: Request, most: int) -> list[Answer]:
        with ExitStack() as stack:
            for _ in range(CROWD if request.way == "crowd" else 0):
                sock = stack.enter_context(connected(self.address))
                send(sock, request.half())
            return self._exchange(request, most)

    def _exchange(self, request: Request, most: int) -> list[Answer]:
        found = exchange(self.address, request.pieces(), request.method, most)
        return found or exchange(self.address, request.pieces(), request.method, most)

    def _leave(self, request: Request) -> None:
        """Send what is no whole request, and end the connection."""
        with connected(self.address) as sock:
            send(sock, request.pieces())
        self.account.count("left")

    def _look_up(self, request: Request, answer: Answer) -> None:
        sent = cast("list[dict[str, Any]]", sent_events(request.body))
        said = json.loads(answer.body)
        if request.path == "/events":
            self.ledger.accept(said["id"], sent[0], new=said["status"] == "published")
            return
        if said["count"] != len(sent):
            raise Fault("count", f"{len(sent)} events were sent, {said['count']} were counted")
        last = {event["id"]: event for event in sent if "id" in event}
        for event_id, event in last.items():
            self.ledger.accept(event_id, event, new=False)


def _slowest(answers: list[Answer]) -> float:
    return max((answer.seconds for answer in answers), default=0.0)


def _refuse_echo(answer: Answer) -> None:
    """Refuse a redirection to an address of the client's choice."""
    place = unquote(answer.headers.get("location", ""))
    if place and (not place.startswith("/") or place.startswith(("//", "/\\"))):
        raise Fault("redirection", f"it leads to {place!r:.300}, which the client chose")
