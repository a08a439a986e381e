"""Makes the fields of a form from the JSON schema of an event type, and reads values from what the form sends."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, cast

from pydantic_core import from_json, to_json

from .access import Form

PREFIX = "field."
"""Begins the names of the inputs, so that none clashes with those of the form itself."""
MAX_LINE = 200  # characters; a text that may be longer gets more lines
MAX_DEPTH = 20  # references of a schema to another
INTEGER = re.compile(r"[+-]?[0-9]{1,300}")
WITHOUT_ZONE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d{1,6})?)?")
SAMPLES = {"array": '["a", "b"]', "object": '{"name": "value"}'}
NOTES = {"array": "A list as JSON.", "object": "An object as JSON."}
ON = "on"

type Schema = Mapping[str, Any]
type Kind = Literal["line", "lines", "number", "flag", "choice", "time", "date", "json"]


class InvalidInput(ValueError):
    """What was entered into a field is no value. The message names the field and the remedy."""


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
    error: str = ""

    @property
    def input(self) -> str:
        """The name of its input."""
        return f"{PREFIX}{self.name}"


def fields_of(schema: Schema, omitted: frozenset[str]) -> list[Field]:
    """Return the fields of a schema's properties in their order, with their defaults entered."""
    definitions, required = schema.get("$defs", {}), schema.get("required", ())
    properties = cast("Schema", schema.get("properties", {}))
    return [
        _field(name, each, definitions, required=name in required)
        for name, each in properties.items()
        if name not in omitted
    ]


def entered(fields: Sequence[Field], form: Form) -> list[Field]:
    """Return the fields with what a form sends."""
    return [replace(each, value=form.get(each.input)) for each in fields]


def filled(fields: Sequence[Field], values: Mapping[str, Any]) -> list[Field]:
    """Return the fields with values of JSON entered."""
    return [
        replace(each, value=_as_text(each.kind, values[each.name])) if each.name in values else each
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
    """Return a number; the text itself if it is none, which validation then refuses."""
    try:
        return float(text)
    except ValueError:
        return text


def _field(name: str, given: Schema, definitions: Schema, *, required: bool) -> Field:
    schema, nullable = _plain(given, definitions)
    kind, options = _kind(schema, nullable), _options(schema)
    if kind == "choice" and not options:
        options = [("true", "yes"), ("false", "no")]
    default = given.get("default")
    integer = schema.get("type") == "integer"
    return Field(
        name,
        kind,
        required and kind != "flag",
        default,
        nullable,
        hint=_hint(str(given.get("description") or schema.get("description") or ""), kind, schema),
        options=options,
        step="1" if integer else "any",
        minimum=schema.get("minimum", schema.get("exclusiveMinimum")),
        maximum=schema.get("maximum", schema.get("exclusiveMaximum")),
        max_length=schema.get("maxLength"),
        sample=SAMPLES.get(schema.get("type", ""), ""),
        value="" if default is None else _as_text(kind, default),
    )


def _hint(description: str, kind: Kind, schema: Schema) -> str:
    """Return the description, and how the value is written."""
    notes = {"time": "In UTC.", "json": NOTES.get(schema.get("type", ""), "A value as JSON.")}
    return " ".join(filter(None, (description, notes.get(kind))))


def _plain(schema: Schema, definitions: Schema) -> tuple[Schema, bool]:
    """Return a schema without references, and without null; and whether null is allowed."""
    nullable = False
    for _ in range(MAX_DEPTH):
        if "$ref" in schema:
            schema = definitions.get(str(schema["$ref"]).rpartition("/")[2], {})
        elif len(schema.get("allOf", ())) == 1:
            schema = schema["allOf"][0]
        elif "anyOf" in schema:
            branches = [each for each in schema["anyOf"] if each.get("type") != "null"]
            nullable = nullable or len(branches) < len(schema["anyOf"])
            one = _only(branches)
            if one is None:
                return schema, nullable
            schema = {"maxLength": MAX_LINE, **one} if len(branches) > 1 else one
        else:
            break
    return schema, nullable


def _only(branches: list[Any]) -> Any:
    """Return the only branch; of a decimal number, which may be a JSON number or a text, the text."""
    if len(branches) == 1:
        return branches[0]
    kinds = [each.get("type") for each in branches]
    return branches[1] if kinds == ["number", "string"] else None


def _kind(schema: Schema, nullable: bool) -> Kind:
    if "enum" in schema or "const" in schema:
        return "choice"
    match schema.get("type"):
        case "string":
            return _kind_of_text(schema)
        case "integer" | "number":
            return "number"
        case "boolean":
            return "choice" if nullable else "flag"
        case _:
            return "json"


def _kind_of_text(schema: Schema) -> Kind:
    match schema.get("format"):
        case "date-time":
            return "time"
        case "date":
            return "date"
        case None if "pattern" not in schema and schema.get("maxLength", MAX_LINE + 1) > MAX_LINE:
            return "lines"
        case _:
            return "line"


def _options(schema: Schema) -> list[tuple[str, str]]:
    values: list[Any] = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
    return [
        (to_json(each).decode(), each if isinstance(each, str) else to_json(each).decode())
        for each in values
    ]


def _as_text(kind: Kind, value: Any) -> str:
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
