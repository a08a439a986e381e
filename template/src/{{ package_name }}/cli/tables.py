"""Rows of values: a table on a wide terminal, a block each on a narrow one, lines in a pipe, or JSON.

No value is ever cut: an id that cannot be copied is of no use.
"""

import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from .output import Terminal, plain, say, writing

type Rows = Sequence[dict[str, Any]]


def print_rows(rows: Rows, nothing: str, *, as_json: bool) -> None:
    """Print rows for people or, in a pipe, as lines of values between tabs; or as JSON.

    If there are none, people read `nothing`.
    """
    if as_json:
        say(json.dumps(rows, default=str))
    elif not rows:
        say(nothing)
    elif sys.stdout.isatty():
        _print_for_people([{name: _text(value) for name, value in row.items()} for row in rows])
    else:
        lines = [list(rows[0]), *([_text(value) for value in row.values()] for row in rows)]
        say("\n".join("\t".join(" ".join(cell.split()) for cell in line) for line in lines))


def _text(value: object) -> str:
    return "" if value is None else plain(str(value))


def _print_for_people(rows: list[dict[str, str]]) -> None:
    terminal, table = Terminal(), _table(rows)
    unlimited = terminal.options.update(max_width=sys.maxsize)
    if Measurement.get(terminal, unlimited, table).minimum > terminal.width:
        say("\n\n".join(map(_block, rows)))
        return
    with writing(sys.stdout):
        terminal.print(table)


def _table(rows: list[dict[str, str]]) -> Table:
    table = Table()
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row.values()))  # brackets and colons are no markup
    return table


def _block(row: dict[str, str]) -> str:
    """Return a row as a line for each of its values."""
    width = max(map(len, row)) + 2
    return "\n".join(f"{name:{width}}{value}" for name, value in row.items())
