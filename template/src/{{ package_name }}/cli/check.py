"""The command that finds what is wrong with the service, before it runs or while it runs."""

import asyncio
import sys
from collections import Counter
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from .. import COMMAND
from ..checks.findings import Finding, State, from_sentence
from ..development_database import ensure_database
from ..infra.database import StartupError
from .lazy_logfire import configure
from .output import Json, Terminal, echo, translate_write_errors
from .tables import print_rows

app = typer.Typer()

STYLES: dict[State, str] = {"ok": "green", "warning": "yellow", "error": "red"}

Model = Annotated[bool, typer.Option("--model/--no-model", help="Send the model one request.")]
Record = Annotated[
    bool, typer.Option("--record", help="Only record the event types, in a file to commit.")
]


@app.command(epilog=f"Examples: {COMMAND} check, {COMMAND} check --no-model --json")
def check(model: Model = True, record: Record = False, as_json: Json = False) -> None:
    """Find what is wrong with the service: settings, servers, schema, agent, queue. Exit with 1 on an error."""
    if record:
        _record()
        return
    configure()
    found = _findings(model=model)
    if as_json or not sys.stdout.isatty():
        print_rows([each.row() for each in found], "", as_json=as_json)
    else:
        _print_for_people(found)
    if any(each.state == "error" for each in found):
        raise typer.Exit(1)


def _record() -> None:
    from ..checks.event_types import RECORD, record_event_types

    for sentence in record_event_types():
        echo(f"Accepted: {sentence}", err=True)
    echo(f"Wrote {RECORD}: commit it")


def _findings(*, model: bool) -> list[Finding]:
    from ..checks.run import check_outside, check_project, check_servers

    settings, found = asyncio.run(check_project())
    if settings is None:
        return found
    try:
        with ensure_database() as usable:
            found += asyncio.run(check_servers(usable))
    except StartupError as problem:
        found.append(from_sentence("database", "error", str(problem)))
    return found + asyncio.run(check_outside(settings, model=model))


def _print_for_people(found: list[Finding]) -> None:
    """Print a line for each finding, with the remedy first, and their count at the end."""
    table = Table.grid(padding=(0, 2))
    for each in found:
        row = each.row()
        texts = [f"{it[:1].upper()}{it[1:]}" for it in (row["remedy"], row["found"]) if it]
        sentence = ". ".join(texts).replace("?. ", "? ")
        table.add_row(Text(each.state, STYLES[each.state]), Text(each.check), Text(sentence))
    counts = Counter(each.state for each in found)
    terminal = Terminal()
    with translate_write_errors(sys.stdout):
        terminal.print(table)
    echo(f"{_count(counts['error'], 'error')}, {_count(counts['warning'], 'warning')}")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
