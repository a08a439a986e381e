"""Estimates the memory that an event takes (its weight), from its JSON and without parsing it."""

from sys import getsizeof

BOX, VALUE = 64, 48
"""Bytes of memory for an array or object, and for any other value."""
EVENT = 2_500
"""Bytes of memory for an event with an empty payload: the object, its times, ids and meta."""


def weigh(data: bytes) -> int:
    """Return an upper estimate of the bytes of memory that parsed JSON takes.

    It may be many times its length: four megabytes of `{},{},...` take more than a hundred.
    """
    boxes = data.count(b"{") + data.count(b"[")
    return len(data) + BOX * boxes + VALUE * data.count(b",")


def weigh_event(payload: object, headers: object) -> int:
    """Return an upper estimate of the bytes of memory of an event, by its two columns of JSON.

    If the connection decoded the JSON already, it returns the constant `EVENT`.
    """
    if not isinstance(payload, str):
        return EVENT
    boxes = payload.count("{") + payload.count("[")
    # `getsizeof`, since one character of four bytes makes Python store four bytes for every character.
    return (
        EVENT + getsizeof(payload) + BOX * boxes + VALUE * payload.count(",") + getsizeof(headers)
    )
