"""Publish events from JSON Lines, and write events as JSON Lines."""

import codecs
import shlex
from collections.abc import AsyncIterator, Iterable, Iterator
from itertools import islice
from typing import Any, TextIO

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from .. import COMMAND
from ..api.incoming import OperatorEvent
from ..core.events import Event
from ..infra.store import ErasedEvent, EventStore, InvalidEvent, Stored, UnreadableEvent
from ..infra.text import one_line
from .output import CommandFailed, translate_write_errors
from .store import operator

JSON_EXAMPLES = {"list_type": """'["a", "b"]'""", "dict_type": """'{"a": 1}'"""}
"""Examples of `NAME:=JSON` for fields that `NAME=TEXT` cannot set, by the error's type."""

CHUNK = 1_000  # events of a file that share a commit

incoming: TypeAdapter[Event] = TypeAdapter(OperatorEvent)


class JsonLinesPublisher:
    """Publish the events of a file, and report the progress."""

    def __init__(self, lines: Iterable[bytes], name: str) -> None:
        self._lines = lines
        self._name = name
        self._count = 0
        self._next = 1
        """The line from which to resume."""

    async def publish(self, store: EventStore) -> str:
        """Publish all events; return a sentence with their number.

        Raises:
            CommandFailed: a line cannot be read, or is not a valid event.
        """
        events, new = self._events(), 0
        while chunk := list(islice(events, CHUNK)):
            try:
                new += await store.publish_many([event for _, event in chunk], by=operator())
            except InvalidEvent as error:
                line = chunk[error.index or 0][0]
                raise CommandFailed(f"line {line}: {error}") from error
            self._count += len(chunk)
            self._next = chunk[-1][0] + 1
        return f"Published {self._count} events, {new} of them new"

    def progress(self) -> str:
        """Return a sentence with the number of events so far and how to resume."""
        done = f"{self._count} events were published"
        if not self._count:
            return f"{done}."
        return (
            f"{done}; to resume, run `tail -n +{self._next} {self._name} | {COMMAND} publish -f -`."
        )

    def _events(self) -> Iterator[tuple[int, Event]]:
        try:
            for number, line in enumerate(self._lines, 1):
                if number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                if line.strip():
                    yield number, _event(number, line)
        except OSError as error:
            raise CommandFailed(f"{self._name}: {error.strerror}.") from error


def _event(number: int, line: bytes) -> Event:
    try:
        fields = from_json(line)
    except ValueError as error:
        reason = str(error).replace("line 1 ", "")
        raise CommandFailed(f"line {number} is not valid JSON: {reason}") from error
    return validate_event(fields, f"line {number}: ")


def validate_event(fields: Any, where: str = "") -> Event:
    """Return the event of these fields.

    Raises:
        CommandFailed: they are not valid.
    """
    try:
        return incoming.validate_python(fields)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"][1:] or first["loc"]))
        said = first["msg"]
        if not where and first["type"] in JSON_EXAMPLES:  # the field was given as NAME=TEXT
            said += f": write {name}:={JSON_EXAMPLES[first['type']]}"
        raise CommandFailed(f"{where}{name}: {said}" if name else f"{where}{said}") from error


def name_of(file: object) -> str:
    """Return a file's name, quoted for a shell; FILE for standard input."""
    name = getattr(file, "name", None)
    return shlex.quote(name) if isinstance(name, str) and name != "<stdin>" else "FILE"


class JsonLinesWriter:
    """Write events to a file or to standard output, unreadable ones included."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    async def send(self, events: AsyncIterator[Stored]) -> str:
        """Write all events; return a sentence with their number.

        Raises:
            CommandFailed: the output cannot be written.
            OutputClosed: the reader closed the output.
        """
        count = unreadable = erased = 0
        async for event in events:
            with translate_write_errors(self._out):
                self._out.write(one_line(event.model_dump_json()) + "\n")
            count += 1
            unreadable += isinstance(event, UnreadableEvent)
            erased += isinstance(event, ErasedEvent)
        with translate_write_errors(self._out):
            self._out.flush()
        return (
            f"Replayed {count} events"
            + (f", {unreadable} of them unreadable: shown as they are stored" if unreadable else "")
            + (f", {erased} of them erased: shown without content" if erased else "")
        )

    def progress(self) -> str:
        """Return a sentence for incomplete output; buffering hides the number of written events."""
        return "The output is incomplete."
