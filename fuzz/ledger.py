"""What was accepted, and whether it can be read with the content with which it was sent."""

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any, cast
from urllib.parse import quote

from pydantic import AwareDatetime, TypeAdapter, ValidationError

from .fault import Fault
from .wire import Address, Answer, ask

TIME: TypeAdapter[datetime] = TypeAdapter(AwareDatetime)
LATER = {"timestamp", "meta"}  # of a repetition, which need not be those of the first
PASSED_ON = ("correlation_id", "replayed_from")  # of a client's meta; `traceparent` gets a flag
PAGE = 1_000  # events
NEAR = 50  # events of a scope among which a new one is

type Json = dict[str, Any]


class Ledger:
    """The events that the service accepted, by their ids."""

    def __init__(self, address: Address, key: str) -> None:
        self._address = address
        self._key = key
        self.events: dict[str, Json] = {}
        """As they were read the first time."""

    def accept(self, event_id: str, sent: Json, *, new: bool = True) -> None:
        """See that an event which was accepted just now can be read.

        Raises:
            Fault: it cannot, or not as it was sent.
        """
        read = self._found(event_id)
        ignored = set[str]() if new and event_id not in self.events else LATER
        if problem := difference(sent, read, ignored):
            raise Fault("content", f"{event_id!r} is read with another {problem}")
        self.events.setdefault(event_id, read)
        if new:
            self._listed(read)

    def _found(self, event_id: str) -> Json:
        answer = ask(self._address, f"/events/{quote(event_id, safe='')}", self._key)
        if answer.status != 200:
            raise Fault("unreadable", f"{event_id!r} was accepted and answers {_shown(answer)}")
        return json.loads(answer.body)["event"]

    def _listed(self, event: Json) -> None:
        """See that a new event is listed under its scope and its type."""
        wanted = f"scope={quote(event['scope'], safe='')}&type={event['type']}&limit={NEAR}"
        answer = ask(self._address, f"/events?{wanted}", self._key)
        if answer.status != 200 or event not in json.loads(answer.body)["events"]:
            raise Fault("unlisted", f"{event['id']!r} was accepted and is not in {_shown(answer)}")

    def missing(self) -> list[str]:
        """List the whole log, and return the ids that it should have, and has not as they were read."""
        left = dict(self.events)
        for event in self._log():
            if left.get(event["id"]) == event:
                del left[event["id"]]
        return [*left]

    def _log(self) -> Iterator[Json]:
        before = ""
        while True:
            answer = ask(self._address, f"/events?limit={PAGE}{before}", self._key)
            if answer.status != 200:
                raise Fault("unlisted", f"a page of the log answers {_shown(answer)}")
            page = json.loads(answer.body)
            yield from page["events"]
            if page["before"] is None:
                return
            before = f"&before={page['before']}"


def difference(sent: Json, read: Json, ignored: set[str]) -> str | None:
    """Return the first field that is read with another value than it was sent with."""
    for name in (sent.keys() & read.keys()) - ignored:
        if name == "timestamp":
            same = _as_time(sent[name]) == _as_time(read[name])
        elif name == "meta":
            same = _same_meta(sent[name], read[name])
        elif name == "scope" and not sent[name]:
            continue
        else:
            same = equal(sent[name], read[name])
        if not same:
            return f"{name}: {sent[name]!r:.300} became {read[name]!r:.300}"
    return None


def equal(one: object, other: object) -> bool:
    """Compare two JSON values, of which 1, 1.0 and true are three."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        mine, others = cast("Json", one), cast("Json", other)
        return mine.keys() == others.keys() and all(equal(mine[k], others[k]) for k in mine)
    if isinstance(one, list):
        mine_, others_ = cast("list[object]", one), cast("list[object]", other)
        return len(mine_) == len(others_) and all(map(equal, mine_, others_))
    return one == other


def _as_time(value: object) -> datetime | None:
    try:
        return TIME.validate_python(value)
    except ValidationError:
        return None


def _same_meta(sent: object, read: Json) -> bool:
    if not isinstance(sent, dict):
        return True  # nothing is taken of it
    said = cast("Json", sent)
    return all(said[name] == read.get(name) for name in PASSED_ON if name in said)


def _shown(answer: Answer) -> str:
    return f"{answer.status}: {answer.body[:300]!r}"
