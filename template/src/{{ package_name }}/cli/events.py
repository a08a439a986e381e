"""Commands that publish events, read past ones, and watch them happen."""

import sys
from contextlib import aclosing, suppress
from datetime import datetime
from typing import Annotated, Any

import typer
from pydantic_core import from_json
from rich.text import Text

from .. import COMMAND
from ..core.events import public_types
from ..infra.store import EventStore, Stored, UnreadableEvent
from ..infra.store.log import Wanted
from .lines import Publishing, Writing, name_of, validated
from .opening import OneScope, Types, period, require_types, split_types, with_store
from .output import Json, Terminal, plain, say, telling, writing

COLORS = {
    "lifecycle": "bright_black",
    "timer.tick": "bright_black",
    "agent.action": "bold green",
    "agent.dropped": "yellow",
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
        str | None, typer.Argument(metavar="[TYPE]", autocompletion=complete_public)
    ] = None,
    fields: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME=TEXT | NAME:=JSON]...", help="What the event says."),
    ] = None,
    source: Annotated[str, typer.Option(help="Who says so.")] = "cli",
    file: Annotated[
        typer.FileBinaryRead | None,
        typer.Option(
            "--file", "-f", metavar="FILE", help="JSON Lines instead; - is standard input."
        ),
    ] = None,
) -> None:
    """Publish one event, or all of a file, where a bad line is the end; say how far that came.

    A line with an id is never published twice, so a file of such lines may also be sent again as it is.
    """
    if (type_ is None) == (file is None):
        raise typer.BadParameter("give a TYPE, or --file, one of them")
    if type_ and type_ not in public_types():
        known = ", ".join(public_types())
        raise typer.BadParameter(f"TYPE: there is no {type_!r} to publish; there are {known}")
    if file is not None:
        publishing = Publishing(file, name_of(file))
        with telling(publishing.so_far):
            say(with_store(publishing.publish))
        return
    event = validated({"source": source, **_fields(fields or []), "type": type_})
    new = with_store(lambda store: store.publish(event))
    say(event.id if new else f"{event.id} was published before")


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
        typer.Option(
            "--output", "-o", metavar="FILE", encoding="utf-8", help="Write to a file, as UTF-8."
        ),
    ] = None,
    publish_to: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Publish them to another instance, with replayed_from in their meta and under new ids,"
            " which for one URL are always the same: safe to repeat.",
        ),
    ] = None,
    key: Annotated[
        str | None, typer.Option(envvar="REPLAY_API_KEY", help="A bearer key of that instance.")
    ] = None,
) -> None:
    """Print past events as JSON Lines, in the order in which they happened; changes nothing here.

    An event that this code cannot read is printed as it is stored, with the reason in `unreadable`.
    """
    since, until = period(start, end, last)
    wanted = split_types(types)
    if output and publish_to:
        raise typer.BadParameter("give --output or --publish-to, one of them")

    if publish_to:
        from .forward import Forwarder  # loads a client for HTTP

        sink = Forwarder(publish_to, key, since)
    else:
        sink = Writing(output or sys.stdout)

    from .progress import progress_of

    async def run(store: EventStore) -> str:
        await require_types(store, wanted)
        async with aclosing(store.log.replay(since, until, Wanted(wanted, scope))) as found:
            # A bar would be in the way of events on the same terminal.
            hidden = not output and not publish_to and sys.stdout.isatty()
            with progress_of(since, until, found, hidden=hidden) as events:
                return await sink.send(events)

    with telling(sink.so_far):
        say(with_store(run), err=True)


@app.command(epilog=f"Examples: {COMMAND} tail --types agent.action  |  {COMMAND} tail --json")
def tail(types: Types = None, scope: OneScope = None, as_json: Json = False) -> None:
    """Print events as they happen, until interrupted."""
    wanted, terminal = split_types(types), Terminal(highlight=False, soft_wrap=True)

    async def run(store: EventStore) -> None:
        await require_types(store, wanted)
        async for _, event in store.log.follow(None, Wanted(wanted, scope)):
            if as_json:
                say(event.model_dump_json())
                continue
            with writing(sys.stdout):
                terminal.print(line_of(event))

    with suppress(KeyboardInterrupt):  # it has no other end
        with_store(run)


def _fields(pairs: list[str]) -> dict[str, Any]:
    """Read `name=text` and `name:=json`."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.removesuffix(":"):
            raise typer.BadParameter(f"{pair!r} is no field; write NAME=TEXT or NAME:=JSON")
        try:
            found[name.removesuffix(":")] = from_json(text) if name.endswith(":") else text
        except ValueError as error:
            raise typer.BadParameter(f"{pair!r}: after := comes JSON ({error})") from error
    return found


def line_of(event: Stored) -> Text:
    """Return an event as a line for people."""
    if isinstance(event, UnreadableEvent):
        details = event.model_dump_json(include={"id", "payload", "unreadable"})
    else:
        details = event.model_dump_json(
            exclude={"id", "type", "timestamp", "meta", "scope", "version"}
        )
    return Text.assemble(
        (f"{_local(event.timestamp):%H:%M:%S.%f} ", "bright_black"),
        (plain(f"{event.scope} "), "cyan"),
        (f"{event.type} ", COLORS.get(event.type, "yellow")),
        plain(details),
    )


def _local(time: datetime) -> datetime:
    """Return a time by the clock of this machine; one at an end of the calendar stays as it is."""
    try:
        return time.astimezone()
    except (OverflowError, ValueError):
        return time
