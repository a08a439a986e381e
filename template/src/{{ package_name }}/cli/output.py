"""What commands say: tables for people, JSON for programs, one sentence when something is wrong."""

import json
import sys
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from .. import COMMAND

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for other programs.")]


def print_rows(rows: list[dict[str, Any]], nothing: str, *, as_json: bool) -> None:
    """Print rows as a table, or as JSON; for people say `nothing` if there are none."""
    if as_json:
        typer.echo(json.dumps(rows, default=str))
    elif not rows:
        typer.echo(nothing)
    else:
        table = Table(*rows[0])
        for row in rows:
            table.add_row(*("" if value is None else str(value) for value in row.values()))
        Console(soft_wrap=not sys.stdout.isatty()).print(table)


def fail(sentence: str) -> NoReturn:
    """Say what is wrong and end with exit code 1."""
    typer.echo(f"{COMMAND}: {sentence}", err=True)
    raise SystemExit(1)
