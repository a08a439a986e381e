"""Print rows as a table, as blocks on a narrow terminal, as tab-separated lines in a pipe, or as JSON.

Values are never truncated: an id must stay copyable.
"""

import sys
from collections.abc import Sequence
from typing import Any

from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from ..infra.text import json_line, one_line
from .output import Terminal, echo, print_rows_as_tsv, translate_write_errors

type Rows = Sequence[dict[str, Any]]


def print_rows(rows: Rows, nothing: str, *, as_json: bool) -> None:
    """Print rows for people or, in a pipe, as tab-separated lines; with `as_json`, as JSON.

    If there are no rows, print the sentence `nothing` instead.
    """
    if as_json:
        echo(json_line(rows))
    elif not rows:
        echo(nothing)
    elif sys.stdout.isatty():
        _print_for_people([{name: _text(value) for name, value in row.items()} for row in rows])
    else:
        print_rows_as_tsv(
            [list(rows[0]), *([_text(value) for value in row.values()] for row in rows)]
        )


def _text(value: object) -> str:
    return "" if value is None else one_line(str(value))


def _print_for_people(rows: list[dict[str, str]]) -> None:
    terminal, table = Terminal(), _table(rows)
    unlimited = terminal.options.update(max_width=sys.maxsize)
    if Measurement.get(terminal, unlimited, table).minimum > terminal.width:
        echo(*"\n\n".join(map(_block, rows)).split("\n"))
        return
    with translate_write_errors(sys.stdout):
        terminal.print(table)


def _table(rows: list[dict[str, str]]) -> Table:
    table = Table()
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row.values()))  # `Text` does not interpret brackets as markup
    return table


def _block(row: dict[str, str]) -> str:
    """Return a row as one line for each value."""
    width = max(map(len, row)) + 2
    return "\n".join(f"{name:{width}}{value}" for name, value in row.items())
