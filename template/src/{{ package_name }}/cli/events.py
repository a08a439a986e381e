"""Commands that publish, replay and tail events."""

import sys
from contextlib import aclosing, suppress
from datetime import datetime
from typing import Annotated, Any

import typer
from pydantic_core import from_json
from rich.text import Text

from .. import COMMAND
from ..core.events import public_types
from ..infra.store import ErasedEvent, EventStore, Stored, UnreadableEvent
from ..infra.store.log import EventFilter
from ..infra.text import one_line
from .jsonl import JsonLinesPublisher, JsonLinesWriter, name_of, validate_event
from .options import OneScope, Types, period, require_types, split_types
from .output import Json, Terminal, echo, report_progress_on_error, translate_write_errors
from .store import operator, with_store

COLORS = {
    "lifecycle": "bright_black",
    "timer.tick": "bright_black",
    "agent.action": "bold green",
    "agent.dropped": "yellow",
    "operator.action": "bold yellow",
}

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
        str | None,
        typer.Argument(
            metavar="[TYPE]",
            help="The type of the event. An unknown type lists all of them.",
            autocompletion=complete_public,
        ),
    ] = None,
    fields: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME=TEXT | NAME:=JSON]...",
            help="Its fields. Use NAME=TEXT for texts, numbers and times, and NAME:=JSON for lists, objects"
            """ and null, as in tags:='["a", "b"]'.""",
        ),
    ] = None,
    source: Annotated[str, typer.Option(help="The source of the event.")] = "cli",
    file: Annotated[
        typer.FileBinaryRead | None,
        typer.Option(
            "--file",
            "-f",
            metavar="FILE",
            help="Publish the JSON Lines of a file; - is standard input.",
        ),
    ] = None,
) -> None:
    """Publish one event, or all events of a file up to the first invalid line; print how many.

    A line with an id is never published twice, so a file of such lines can be sent again as it is.
    """
    if (type_ is None) == (file is None):
        raise typer.BadParameter("give either a TYPE or --file")
    if type_ and type_ not in public_types():
        known = ", ".join(public_types())
        raise typer.BadParameter(f"TYPE: {type_!r} is not a type to publish; use one of {known}")
    if file is not None:
        publishing = JsonLinesPublisher(file, name_of(file))
        with report_progress_on_error(publishing.progress):
            echo(with_store(publishing.publish))
        return
    event = validate_event({"source": source, **_fields(fields or []), "type": type_})
    new = with_store(lambda store: store.publish_many([event], by=operator()))
    echo(event.id if new else f"{event.id} was published before")


@app.command(
    epilog=f"Examples: {COMMAND} replay --last 1h --types agent.action  |"
    f"  {COMMAND} replay --start 2026-01-31T12:00 -o events.jsonl  |"
    f"  {COMMAND} replay --last 1d --publish-to http://localhost:8001"
)
def replay(
    start: Annotated[str | None, typer.Option(help="Start at this ISO time.")] = None,
    end: Annotated[str | None, typer.Option(help="End at this ISO time.")] = None,
    last: Annotated[str | None, typer.Option(help="Only the last 30m, 1h, 2d ...")] = None,
    types: Types = None,
    scope: OneScope = None,
    output: Annotated[
        typer.FileTextWrite | None,
        typer.Option(
            "--output", "-o", metavar="FILE", encoding="utf-8", help="Write to a file, as UTF-8."
        ),
    ] = None,
    publish_to: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Publish them to another instance, with new ids and with replayed_from in their meta."
            " The ids depend only on the URL and the old ids, so this can be repeated safely.",
        ),
    ] = None,
    key: Annotated[
        str | None, typer.Option(envvar="REPLAY_API_KEY", help="A bearer key of that instance.")
    ] = None,
) -> None:
    """Print past events as JSON Lines, in their order. Nothing changes in this instance.

    An event that this version cannot read is printed as it is stored, with the reason in `unreadable`. An erased event
    has the time of its erasure in `erased`, and no content.
    """
    since, until = period(start, end, last)
    wanted = split_types(types)
    if output and publish_to:
        raise typer.BadParameter("give either --output or --publish-to")

    if publish_to:
        from .forward import Forwarder  # loads a client for HTTP

        sink = Forwarder(publish_to, key, since)
    else:
        sink = JsonLinesWriter(output or sys.stdout)

    from .progress import progress_of

    async def run(store: EventStore) -> str:
        await require_types(store, wanted)
        async with aclosing(store.log.replay(since, until, EventFilter(wanted, scope))) as found:
            # A progress bar would mix with events on the same terminal.
            hidden = not output and not publish_to and sys.stdout.isatty()
            with progress_of(since, until, found, hidden=hidden) as events:
                return await sink.send(events)

    with report_progress_on_error(sink.progress):
        echo(with_store(run), err=True)


@app.command(epilog=f"Examples: {COMMAND} tail --types agent.action  |  {COMMAND} tail --json")
def tail(types: Types = None, scope: OneScope = None, as_json: Json = False) -> None:
    """Print events as they happen, until interrupted."""
    wanted, terminal = split_types(types), Terminal(highlight=False, soft_wrap=True)

    async def run(store: EventStore) -> None:
        await require_types(store, wanted)
        async for _, event in store.log.follow(None, EventFilter(wanted, scope)):
            if as_json:
                echo(event.model_dump_json())
                continue
            with translate_write_errors(sys.stdout):
                terminal.print(line_of(event))

    with suppress(KeyboardInterrupt):  # the only way to end it
        with_store(run)


def _fields(pairs: list[str]) -> dict[str, Any]:
    """Parse arguments such as `name=text` and `name:=json`."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.removesuffix(":"):
            raise typer.BadParameter(f"{pair!r} is not a field; write NAME=TEXT or NAME:=JSON")
        try:
            found[name.removesuffix(":")] = _json(text) if name.endswith(":") else text
        except ValueError as error:
            raise typer.BadParameter(
                f"{pair!r}: the value after := is not valid JSON ({error})"
            ) from error
    return found


def _json(text: str) -> Any:
    """Parse JSON of an argument, which may have bytes that are not valid UTF-8."""
    return from_json(text.encode(errors="surrogateescape"))


def line_of(event: Stored) -> Text:
    """Return an event as a coloured line."""
    if isinstance(event, UnreadableEvent):
        details = event.model_dump_json(include={"id", "payload", "unreadable"})
    elif isinstance(event, ErasedEvent):
        details = event.model_dump_json(include={"id", "payload", "erased"})
    else:
        details = event.model_dump_json(
            exclude={"id", "type", "timestamp", "meta", "scope", "version"}
        )
    return Text.assemble(
        (f"{_local(event.timestamp):%H:%M:%S.%f} ", "bright_black"),
        (one_line(f"{event.scope} "), "cyan"),
        (one_line(f"{event.type} "), COLORS.get(event.type, "yellow")),
        one_line(details),
    )


def _local(time: datetime) -> datetime:
    """Return a time in the local zone; a time at the end of the calendar is returned unchanged."""
    try:
        return time.astimezone()
    except (OverflowError, ValueError):
        return time
