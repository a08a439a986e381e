"""Compares an event with the stored one of the same id, so that producers may repeat events."""

from collections.abc import Iterator
from decimal import Decimal
from typing import cast

from ...core.events import Event
from ..database import Row
from .codec import Encoded, NewerEvent, Unreadable, read_back
from .times import with_timezone


def has_same_content(row: Row, new: Encoded, event: Event) -> bool:
    """Return whether an event equals the stored one, except for generated fields such as a default time.

    Both are decoded by the current code. So neither new fields with defaults nor the order of a set make a
    difference if a producer repeats an event after a deploy. What an erased event said is unknown: a producer that
    repeats it must neither fail nor bring it back.
    """
    if row["erased"]:
        return (row["type"], row["scope"]) == (new.type, new.scope)
    if (row["type"], row["source"], row["scope"]) != (new.type, new.source, new.scope):
        return False
    try:
        stored = read_back(
            new._replace(
                timestamp=with_timezone(row["timestamp"]), payload=row["payload"], headers="{}"
            )
        )
        repeated = read_back(new)
    except (Unreadable, NewerEvent):  # older code accepted an event that this code cannot read
        return False
    given = event.model_fields_set
    if "timestamp" in given and stored.timestamp != repeated.timestamp:
        return False
    ignored = {
        "meta",
        "timestamp",
        *(name for name in _generated_fields(event) if name not in given),
    }
    return _equal_json(stored.model_dump(exclude=ignored), repeated.model_dump(exclude=ignored))


def _generated_fields(event: Event) -> Iterator[str]:
    """Yield the fields whose default factory returns a new value each time, such as an id or a time."""
    for name, field in type(event).model_fields.items():
        if field.default_factory is not None:
            anew = field.get_default(call_default_factory=True, validated_data=vars(event))
            if anew != getattr(event, name):
                yield name


def _equal_json(stored: object, repeated: object) -> bool:
    """Compare JSON values. An integer that 0.1.0 stored for a large float equals that float."""
    if stored == repeated:
        return True
    if isinstance(stored, dict) and isinstance(repeated, dict):
        one, other = cast("dict[str, object]", stored), cast("dict[str, object]", repeated)
        return one.keys() == other.keys() and all(_equal_json(one[key], other[key]) for key in one)
    if isinstance(stored, list) and isinstance(repeated, list):
        pairs = cast("tuple[list[object], list[object]]", (stored, repeated))
        return len(pairs[0]) == len(pairs[1]) and all(map(_equal_json, *pairs))
    if isinstance(stored, int) and isinstance(repeated, float):
        return Decimal(stored) == Decimal(repr(repeated))
    return False
