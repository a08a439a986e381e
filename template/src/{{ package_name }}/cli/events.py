"""Commands that publish events, read past ones, and watch them happen."""

import json
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import aclosing
from itertools import islice
from typing import Annotated, Any, TextIO

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.text import Text

from .. import COMMAND
from ..api.incoming import IncomingEvent
from ..core.events import Event, public_types
from ..infra.store import EventStore
from .forward import Forwarder
from .opening import OneScope, Types, period, split_types, with_store
from .output import Json
from .progress import progress_of

CHUNK = 1_000  # events of a file that share a commit
COLORS = {"lifecycle": "bright_black", "timer.tick": "bright_black", "agent.action": "bold green"}

incoming: TypeAdapter[Event] = TypeAdapter(IncomingEvent)
app = typer.Typer()


def complete_public(incomplete: str) -> list[str]:
    """Complete a type that may be published."""
    return [name for name in public_types() if name.startswith(incomplete)]


@app.command(
    epilog=f"Examples: {COMMAND} publish http.request method=GET path=/failed  |"
    f"  {COMMAND} publish http.request method=GET path=/ body:=null  |"
    f"  {COMMAND} publish --file events.jsonl  |  {COMMAND} publish --file - < events.jsonl"
)
def publish(
    type_: Annotated[
        str | None, typer.Argument(metavar="[TYPE]", autocompletion=complete_public)
    ] = None,
    fields: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME=TEXT | NAME:=JSON]...", help="What the event says."),
    ] = None,
    source: Annotated[str, typer.Option(help="Who says so.")] = "cli",
    file: Annotated[
        typer.FileText | None,
        typer.Option(
            "--file", "-f", metavar="FILE", help="JSON Lines instead; - is standard input."
        ),
    ] = None,
) -> None:
    """Publish one event, or all of a file, where a bad line is the end; say how far that came."""
    if (type_ is None) == (file is None):
        raise typer.BadParameter("give a TYPE, or --file, one of them")
    if type_ and type_ not in public_types():
        known = ", ".join(public_types())
        raise typer.BadParameter(f"TYPE: there is no {type_!r} to publish; there are {known}")
    if file is not None:
        _publish_lines(file)
        return
    event = _validated({"source": source, **_fields(fields or []), "type": type_}, "")
    new = with_store(lambda store: store.publish(event))
    typer.echo(event.id if new else f"{event.id} was published before")


@app.command(
    epilog=f"Examples: {COMMAND} replay --last 1h --types agent.action  |"
    f"  {COMMAND} replay --start 2026-01-31T12:00 -o events.jsonl  |"
    f"  {COMMAND} replay --last 1d --publish-to http://localhost:8001"
)
def replay(
    start: Annotated[str | None, typer.Option(help="From this ISO time.")] = None,
    end: Annotated[str | None, typer.Option(help="Up to this ISO time.")] = None,
    last: Annotated[str | None, typer.Option(help="Only the last 30m, 1h, 2d ...")] = None,
    types: Types = None,
    scope: OneScope = None,
    output: Annotated[
        typer.FileTextWrite | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write to a file."),
    ] = None,
    publish_to: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Publish them to another instance, under new ids, with replayed_from in their meta.",
        ),
    ] = None,
    key: Annotated[
        str | None, typer.Option(envvar="REPLAY_API_KEY", help="A bearer key of that instance.")
    ] = None,
) -> None:
    """Print past events as JSON Lines, in the order in which they happened; changes nothing here."""
    since, until = period(start, end, last)
    wanted = split_types(types)
    if output and publish_to:
        raise typer.BadParameter("give --output or --publish-to, one of them")

    async def run(store: EventStore) -> str:
        async with aclosing(store.replay(since, until, wanted, scope=scope)) as found:
            # A bar would be in the way of events on the same terminal.
            hidden = not output and not publish_to and sys.stdout.isatty()
            with progress_of(since, until, found, hidden=hidden) as events:
                if publish_to:
                    return await Forwarder(publish_to, key).send(events)
                return f"Replayed {await _write(events, output or sys.stdout)} events"

    typer.echo(with_store(run), err=True)


@app.command(epilog=f"Examples: {COMMAND} tail --types agent.action  |  {COMMAND} tail --json")
def tail(types: Types = None, scope: OneScope = None, as_json: Json = False) -> None:
    """Print events as they happen, until interrupted."""
    wanted, console = split_types(types), Console(highlight=False, soft_wrap=True)

    async def run(store: EventStore) -> None:
        async for _, event in store.follow(event_types=wanted, scope=scope):
            if as_json:
                typer.echo(event.model_dump_json())
            else:
                console.print(_line(event))

    with_store(run)


def _publish_lines(lines: Iterable[str]) -> None:
    async def run(store: EventStore) -> tuple[int, int]:
        events, count, new = _events(lines), 0, 0
        try:
            while chunk := list(islice(events, CHUNK)):
                new += await store.publish_many(chunk)
                count += len(chunk)
        except ValueError as error:
            raise ValueError(f"{error}; {count} events were published") from error
        return count, new

    count, new = with_store(run)
    typer.echo(f"Published {count} events, {new} of them new")


def _events(lines: Iterable[str]) -> Iterator[Event]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                fields = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number} is no JSON: {error}") from error
            yield _validated(fields, f"line {number}: ")


def _validated(fields: Any, where: str) -> Event:
    try:
        return incoming.validate_python(fields)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"][1:] or first["loc"]))
        said = first["msg"]
        raise ValueError(f"{where}{name}: {said}" if name else f"{where}{said}") from error


def _fields(pairs: list[str]) -> dict[str, Any]:
    """Read `name=text` and `name:=json`."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.removesuffix(":"):
            raise typer.BadParameter(f"{pair!r} is no field; write NAME=TEXT or NAME:=JSON")
        try:
            found[name.removesuffix(":")] = json.loads(text) if name.endswith(":") else text
        except json.JSONDecodeError as error:
            raise typer.BadParameter(f"{pair!r}: after := comes JSON ({error})") from error
    return found


async def _write(events: AsyncIterator[Event], out: TextIO) -> int:
    count = 0
    async for event in events:
        out.write(event.model_dump_json() + "\n")
        count += 1
    out.flush()
    return count


def _line(event: Event) -> Text:
    details = event.model_dump_json(exclude={"id", "type", "timestamp", "meta", "scope", "version"})
    return Text.assemble(
        (f"{event.timestamp.astimezone():%H:%M:%S.%f} ", "bright_black"),
        (f"{event.scope} ", "cyan"),
        (f"{event.type} ", COLORS.get(event.type, "yellow")),
        details,
    )
