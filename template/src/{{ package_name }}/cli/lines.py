"""JSON Lines: events read from them and published, and events written as them."""

import codecs
import shlex
from collections.abc import AsyncIterator, Iterable, Iterator
from itertools import islice
from typing import Any, TextIO

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from .. import COMMAND
from ..api.incoming import IncomingEvent
from ..core.events import Event
from ..infra.store import EventStore, InvalidEvent, Stored, UnreadableEvent
from .output import CommandFailed, writing

CHUNK = 1_000  # events of a file that share a commit

incoming: TypeAdapter[Event] = TypeAdapter(IncomingEvent)


class Publishing:
    """Publishes the events of a file, and knows how far that came."""

    def __init__(self, lines: Iterable[bytes], name: str) -> None:
        self._lines = lines
        self._name = name
        self._count = 0
        self._next = 1
        """The line to go on from."""

    async def publish(self, store: EventStore) -> str:
        """Publish all of them; return a sentence that says how many those were.

        Raises:
            CommandFailed: a line is no event that may be published, or cannot be read.
        """
        events, new = self._events(), 0
        while chunk := list(islice(events, CHUNK)):
            try:
                new += await store.publish_many([event for _, event in chunk])
            except InvalidEvent as error:
                line = chunk[error.index or 0][0]
                raise CommandFailed(f"line {line}: {error}") from error
            self._count += len(chunk)
            self._next = chunk[-1][0] + 1
        return f"Published {self._count} events, {new} of them new"

    def so_far(self) -> str:
        """Say how far that came, and how to go on from there."""
        done = f"{self._count} events were published"
        if not self._count:
            return f"{done}."
        return f"{done}; go on with `tail -n +{self._next} {self._name} | {COMMAND} publish -f -`."

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
        raise CommandFailed(f"line {number} is no JSON: {reason}") from error
    return validated(fields, f"line {number}: ")


def validated(fields: Any, where: str = "") -> Event:
    """Return the event that these fields are of.

    Raises:
        CommandFailed: there is no such event.
    """
    try:
        return incoming.validate_python(fields)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"][1:] or first["loc"]))
        said = first["msg"]
        raise CommandFailed(f"{where}{name}: {said}" if name else f"{where}{said}") from error


def name_of(file: object) -> str:
    """Return a file's name as a shell wants it, or FILE for standard input."""
    name = getattr(file, "name", None)
    return shlex.quote(name) if isinstance(name, str) and name != "<stdin>" else "FILE"


class Writing:
    """Writes events to a file or to standard output, also those that this code cannot read."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    async def send(self, events: AsyncIterator[Stored]) -> str:
        """Write all of them; return a sentence that says how many those were.

        Raises:
            CommandFailed: they cannot be written.
            ReaderLeft: nobody wants more.
        """
        count = unreadable = 0
        async for event in events:
            with writing(self._out):
                self._out.write(event.model_dump_json() + "\n")
            count += 1
            unreadable += isinstance(event, UnreadableEvent)
        with writing(self._out):
            self._out.flush()
        return f"Replayed {count} events" + (
            f", {unreadable} of them unreadable: shown as they are stored" if unreadable else ""
        )

    def so_far(self) -> str:
        """Say how far that came; how much of it is written only the operating system knows."""
        return "What was written is not all of it."
