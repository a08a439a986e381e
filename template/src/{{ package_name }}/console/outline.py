"""Outlines an action's output for people: its fields as lines of text, if it is a flat object."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple, cast

from .text import brief

MAX_FIELDS = 12  # of an object that is outlined
MAX_LINES = 8  # of one list; the others are counted
MAX_LINE = 600  # characters


class Field(NamedTuple):
    """A field of an output."""

    name: str
    """Empty if the output is one value."""
    lines: list[str]
    """Its value, or the first elements of it, shortened."""
    more: int
    """How many further elements the list has."""


def outline(output: object) -> list[Field] | None:
    """Return the fields of an output; None if it is too large or too deep to be read as lines."""
    match output:
        case None | str() | int() | float():
            return [Field("", [brief(output, MAX_LINE)], 0)]
        case dict():
            return _fields(cast("Mapping[str, object]", output))
        case _:
            return None


def _fields(output: Mapping[str, object]) -> list[Field] | None:
    if not 0 < len(output) <= MAX_FIELDS:
        return None
    fields: list[Field] = []
    for name, value in output.items():
        elements = cast("list[object]", value) if isinstance(value, list) else [value]
        shown = elements[:MAX_LINES]
        if not _are_plain(shown):
            return None
        lines = [brief(each, MAX_LINE) for each in shown]
        fields.append(Field(brief(name), lines, len(elements) - len(shown)))
    return fields


def _are_plain(values: Iterable[object]) -> bool:
    return not any(isinstance(each, dict | list) for each in values)
