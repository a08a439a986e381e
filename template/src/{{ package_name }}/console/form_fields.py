"""The fields of a form: what is entered into them, and the values of JSON that it stands for."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic_core import from_json, to_json

from .access import Form
from .text import plain

PREFIX = "field."
"""Begins the names of the inputs, so that none clashes with those of the form itself."""
MAX_SHOWN = 500  # characters of a text whose invisible characters are named
INTEGER = re.compile(r"[+-]?[0-9]{1,300}")
WITHOUT_ZONE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d{1,6})?)?")
ON = "on"

type Kind = Literal["line", "lines", "number", "flag", "choice", "time", "date", "json"]


class InvalidInput(ValueError):
    """A text that is not valid JSON was entered into a field. The message names the field and the remedy."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of the form."""

    name: str
    kind: Kind
    required: bool
    default: Any = None
    nullable: bool = False
    hint: str = ""
    options: Sequence[tuple[str, str]] = ()
    """Values as JSON, with their labels."""
    step: str = "any"
    minimum: float | None = None
    maximum: float | None = None
    max_length: int | None = None
    sample: str = ""
    value: str = ""
    """The text that is entered; of a flag, `on` or empty."""

    @property
    def input(self) -> str:
        """The name of its input."""
        return f"{PREFIX}{self.name}"

    @property
    def disguised(self) -> str:
        """The beginning of a text with its invisible characters named; empty if it has none."""
        shown = plain(self.value[:MAX_SHOWN])
        return shown if shown != self.value[:MAX_SHOWN] else ""


def offered(names: Sequence[str], chosen: str) -> list[str]:
    """Return the names to choose from, with the chosen one if the service no longer has it."""
    return [*names] if not chosen or chosen in names else [*names, chosen]


def entered(fields: Sequence[Field], form: Form) -> list[Field]:
    """Return the fields with what a form sends."""
    return [replace(each, value=form.get(each.input)) for each in fields]


def filled(fields: Sequence[Field], values: Mapping[str, Any]) -> list[Field]:
    """Return the fields with values of JSON entered."""
    return [
        replace(each, value=as_text(each.kind, values[each.name])) if each.name in values else each
        for each in fields
    ]


def value_of(field: Field) -> dict[str, Any]:
    """Return the value that is entered into a field, under its name; nothing if it is left to its default.

    Raises:
        InvalidInput: it is not JSON, and should be.
    """
    text = field.value
    if field.kind == "flag":
        return {field.name: bool(text)}
    if not text:
        return _empty(field)
    match field.kind:
        case "choice" | "json":
            value = _json(field, text)
        case "number":
            value = int(text) if INTEGER.fullmatch(text.strip()) else _float(text)
        case "time":
            value = f"{text}Z" if WITHOUT_ZONE.fullmatch(text) else text
        case _:
            value = text.replace("\r\n", "\n")  # as browsers send lines
    return {field.name: value}


def as_text(kind: Kind, value: Any) -> str:
    """Return the text to enter for a value of JSON."""
    if value is None:
        return ""
    match kind:
        case "flag":
            return ON if value else ""
        case "choice":
            return to_json(value).decode()
        case "json":
            return to_json(value, indent=2).decode()
        case "time":
            return _as_local(str(value))
        case "number":
            return to_json(value).decode()
        case _:
            return str(value)


def _as_local(text: str) -> str:
    """Return a time in UTC, without its zone and to the millisecond, as browsers take it."""
    try:
        at = datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return text
    return at.replace(tzinfo=None).isoformat(timespec="milliseconds").removesuffix(".000")


def _empty(field: Field) -> dict[str, Any]:
    """Return what an empty input stands for: nothing, or an empty value in place of a default."""
    if field.required or field.default is None:
        return {}
    if field.nullable:
        return {field.name: None}
    return {field.name: ""} if field.kind in {"line", "lines"} else {}


def _json(field: Field, text: str) -> Any:
    try:
        return from_json(text)
    except ValueError as error:
        sample = field.sample or '"text"'
        raise InvalidInput(
            f"{field.name}: it is not valid JSON ({error}); write a value such as {sample}"
        ) from None


def _float(text: str) -> float | str:
    """Return a number; any other text as it is, which validation refuses."""
    try:
        return float(text)
    except ValueError:
        return text
