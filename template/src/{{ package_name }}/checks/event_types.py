"""Finds event types whose fields changed without a new `version`, by a record that is committed with the code.

The record is a file and not a table: a pull request shows its change beside the one of the type, and a pipeline compares
them without a database. It names each field with its JSON schema, and not only a digest, so that a new optional field,
which needs no new version, is told from other changes.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from pydantic import BaseModel, ValidationError
from pydantic.type_adapter import TypeAdapter

from .. import COMMAND
from ..core.events import UPGRADES, VERSIONS
from ..infra.store.roundtrip import COMMON_FIELDS, MODELS
from .findings import Finding, error, ok, warning

CHECK = "event types"
RECORD = Path(__file__).parent.parent / "event_types.lock"
RECORD_COMMAND = f"{COMMAND} check --record"
DOCUMENTATION = frozenset({"default", "deprecated", "description", "examples", "title"})
"""Keys of a JSON schema that decide about no value."""

type Schema = dict[str, Any]


class Shape(TypedDict):
    """The fields of an event type beyond those of every event."""

    version: int
    fields: dict[str, Schema]
    required: NotRequired[list[str]]


SHAPES: TypeAdapter[dict[str, Shape]] = TypeAdapter(dict[str, Shape])


async def check_event_types() -> list[Finding]:
    """Compare the types with their record; without one, return a hint."""
    now = current_shapes()
    found = list(_gaps())
    if not RECORD.exists():
        hint = f"`{RECORD_COMMAND}` records them, so that changes without a version are found"
        return [*found, ok(CHECK, hint)]
    try:
        before = SHAPES.validate_json(RECORD.read_bytes())
    except ValidationError:
        return [*found, error(CHECK, f"Run `{RECORD_COMMAND}`", f"{RECORD.name} cannot be read")]
    for name in {**before, **now}:
        found += _compared(name, before.get(name), now.get(name))
    return found or [ok(CHECK, f"{len(now)}, as recorded")]


def record_event_types() -> list[str]:
    """Write the record; return a sentence for each change that it accepts without a new version."""
    now = current_shapes()
    accepted: list[Finding] = []
    if RECORD.exists():
        try:
            before = SHAPES.validate_json(RECORD.read_bytes())
        except ValidationError:
            before = {}
        accepted = [
            each for name in before for each in _compared(name, before[name], now.get(name))
        ]
    RECORD.write_text(f"{json.dumps(now, indent=2, sort_keys=True)}\n", "utf-8")
    return [each.found for each in accepted if each.state == "error"]


def current_shapes() -> dict[str, Shape]:
    """Return the shape of each event type."""
    return {model.model_fields["type"].default: shape_of(model) for model in MODELS}


def shape_of(model: type[BaseModel]) -> Shape:
    """Return the shape of one event type."""
    schema = model.model_json_schema(by_alias=False)
    own = [name for name in model.model_fields if name not in COMMON_FIELDS]
    properties, definitions = schema["properties"], schema.get("$defs", {})
    shape = Shape(
        version=model.model_fields["version"].default,
        fields={name: _bare(properties[name], definitions, ()) for name in own},
    )
    if required := sorted(set(own) & set(schema.get("required", []))):
        shape["required"] = required
    return shape


def _bare(schema: Any, definitions: dict[str, Schema], within: tuple[str, ...]) -> Any:
    """Return a schema without documentation, and with its references replaced; a recursive one keeps the name."""
    if isinstance(schema, list):
        return [_bare(each, definitions, within) for each in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    fields = cast("Schema", schema)
    name = str(fields.get("$ref", "")).rpartition("/")[2]
    if name in definitions and name not in within:
        return _bare(definitions[name], definitions, (*within, name))
    # Below `properties`, keys are names of fields, which may be called `title`.
    return {
        key: {each: _bare(value[each], definitions, within) for each in value}
        if key == "properties"
        else _bare(value, definitions, within)
        for key, value in fields.items()
        if key not in DOCUMENTATION
    }


def _compared(name: str, before: Shape | None, now: Shape | None) -> Iterator[Finding]:
    record = f"Run `{RECORD_COMMAND}` and commit {RECORD.name}"
    if now is None:
        remedy = f"Restore its class, or if no log has it, run `{RECORD_COMMAND}`"
        yield error(CHECK, remedy, f"{name} was removed: its events cannot be read")
    elif before is None:
        yield warning(CHECK, record, f"{name} is not recorded")
    elif now["version"] < before["version"]:
        was, is_now = before["version"], now["version"]
        yield error(CHECK, f"Set it to {was} or more", f"{name} has version {is_now}, after {was}")
    elif now["version"] > before["version"]:
        yield warning(
            CHECK, record, f"{name} has version {now['version']}, recorded is an older one"
        )
    elif changes := "; ".join(_changes(before, now)):
        remedy = f"Set its version to {now['version'] + 1} and convert older ones in UPGRADES"
        yield error(CHECK, remedy, f"{name} changed without a new version: {changes}")
    elif now != before:
        yield warning(CHECK, record, f"{name} has new optional fields")


def _changes(before: Shape, now: Shape) -> Iterator[str]:
    """Yield what changed, except new optional fields."""
    required, was_required = set(now.get("required", [])), set(before.get("required", []))
    for field, schema in before["fields"].items():
        if field not in now["fields"]:
            yield f"{field} was removed"
        elif now["fields"][field] != schema:
            yield f"{field} has another type"
        elif (field in required) != (field in was_required):
            yield f"{field} is {'now' if field in required else 'no longer'} required"
    for field in sorted(required - set(before["fields"])):
        yield f"{field} is new and required"


def _gaps() -> Iterator[Finding]:
    """Find versions that no function of `UPGRADES` converts."""
    for name, version in VERSIONS.items():
        for old in range(1, version):
            if (name, old) not in UPGRADES:
                found = (
                    f"version {old} of {name} is not converted: clients without a version send 1"
                )
                yield warning(CHECK, f'Add ("{name}", {old}) to UPGRADES', found)
