"""Makes the fields of a form from the JSON schema of an event type."""

from collections.abc import Mapping
from typing import Any, cast

from pydantic_core import to_json

from .form_fields import Field, Kind, as_text

MAX_LINE = 200  # characters; a text that may be longer gets more lines
MAX_DEPTH = 20  # references of a schema to another
SAMPLES = {"array": '["a", "b"]', "object": '{"name": "value"}'}
NOTES = {"array": "A list as JSON.", "object": "An object as JSON."}

type Schema = Mapping[str, Any]


def fields_of(schema: Schema, omitted: frozenset[str]) -> list[Field]:
    """Return the fields of a schema's properties in their order, with their defaults entered."""
    definitions, required = schema.get("$defs", {}), schema.get("required", ())
    properties = cast("Schema", schema.get("properties", {}))
    return [
        _field(name, each, definitions, required=name in required)
        for name, each in properties.items()
        if name not in omitted
    ]


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
        value="" if default is None else as_text(kind, default),
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
