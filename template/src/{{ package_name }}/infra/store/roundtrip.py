"""Checks, once at the start, that every field of every event type can be stored and read back unchanged."""

import warnings
from collections.abc import Generator
from functools import cache
from typing import Any, cast, get_args

from pydantic import AliasChoices, AliasPath, BaseModel
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo

from ...core.events import BaseEvent, Event

STAMPED = frozenset({"seq", "recorded_at"})  # attributes that the store sets on each event it reads
MODELS: tuple[type[BaseModel], ...] = get_args(get_args(Event)[0])
"""The class of each event type."""
COMMON_FIELDS = frozenset({*BaseEvent.model_fields, "type"})
"""The fields that every event type has."""


def find_lossy_field() -> str | None:
    """Return a sentence about the first field that would be lost or altered; None if there is none."""
    for model in MODELS:
        for owner in _nested_models(model):
            for name, field in owner.model_fields.items():
                if remedy := _remedy(owner, name, field, top=owner is model):
                    type_ = model.model_fields["type"].default
                    return f"The field {name!r} of {owner.__name__} ({type_}) {remedy}."
    return None


def _nested_models(model: type[BaseModel]) -> Generator[type[BaseModel]]:
    """Yield a model and the models within its fields, each once."""
    left: list[Any] = [model]
    seen: set[int] = set()
    while left:
        each = left.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        left += get_args(each)
        if isinstance(each, type) and issubclass(each, BaseModel):
            yield each
            left += [field.annotation for field in each.model_fields.values()]


def _remedy(owner: type[BaseModel], name: str, field: FieldInfo, *, top: bool) -> str | None:
    if top and name in STAMPED:
        return "is overwritten when the event is read: give it another name"
    if field.exclude:
        return "has exclude=True and is not stored: leave that out, or make it no field"
    if _written(owner, name, field) not in _read(owner, name, field):
        return (
            "is stored under another name than it is read by: set validate_by_name=True in the"
            " model_config, or leave the alias out"
        )
    if _is_secret(owner, name):
        return "is stored as asterisks: use str, or a field_serializer that returns the value"
    return None


def _written(owner: type[BaseModel], name: str, field: FieldInfo) -> str:
    by_alias = owner.model_config.get("serialize_by_alias")
    return (field.serialization_alias or name) if by_alias else name


def _read(owner: type[BaseModel], name: str, field: FieldInfo) -> set[object]:
    config = owner.model_config
    alias = field.validation_alias
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
    names: set[object] = set()
    if config.get("validate_by_alias") is not False:
        names |= {_plain(one) for one in choices if one is not None}
    if alias is None or config.get("validate_by_name") or config.get("populate_by_name"):
        names.add(name)
    return names


def _plain(alias: str | AliasPath) -> object:
    if isinstance(alias, AliasPath):
        return alias.path[0] if len(alias.path) == 1 else None
    return alias


def _is_secret(owner: type[BaseModel], name: str) -> bool:
    """Return whether a field is serialized as asterisks, by the JSON schema of its serialization."""
    left: list[Any] = [_schemas(owner).get(name)]
    while left:
        each = left.pop()
        if isinstance(each, dict):
            schema = cast("dict[str, Any]", each)
            if schema.get("format") == "password" and schema.get("writeOnly"):
                return True
            left += schema.values()
        elif isinstance(each, list):
            left += cast("list[Any]", each)
    return False


@cache
def _schemas(owner: type[BaseModel]) -> dict[str, Any]:
    try:
        with warnings.catch_warnings(action="ignore"):  # about defaults that JSON cannot represent
            found = owner.model_json_schema(by_alias=False, mode="serialization")
    except PydanticUserError:  # a field has a type without a schema
        return {}
    return found.get("properties", {})
