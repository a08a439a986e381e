"""Events as they are published: most have one or two things wrong, so that many are accepted."""

import json
from datetime import UTC

from hypothesis import strategies as st

from .hostile import (
    FIELDS,
    STORABLE_NUMBERS,
    TYPES,
    combined,
    ids,
    json_object,
    json_texts,
    json_values,
    metas,
    mostly,
    storable_texts,
    times,
)

BODIES = st.one_of(
    json_values, st.lists(st.tuples(json_texts, json_values), max_size=4).map(json_object)
)
CHANGES = {
    "id": ids.map(json.dumps),
    "timestamp": times,
    "scope": json_texts,
    "source": json_texts,
    "message": json_texts,
    "meta": metas,
    "body": BODIES,
    "headers": st.lists(st.tuples(json_texts, json_texts), max_size=3).map(json_object),
}
MILD = st.one_of(
    storable_texts.map(json.dumps),
    st.sampled_from(STORABLE_NUMBERS),
    st.sampled_from(("true", "false", "null", "[]", "{}", '[{"a":[1,1.0,true]}]')),
)
HARMLESS = {
    "timestamp": st.datetimes(timezones=st.just(UTC)).map(lambda time: f'"{time.isoformat()}"'),
    "scope": storable_texts.map(json.dumps),
    "source": storable_texts.map(json.dumps),
    "message": storable_texts.map(json.dumps),
    "path": storable_texts.map(json.dumps),
    "body": st.lists(st.tuples(storable_texts.map(json.dumps), MILD), max_size=4).map(json_object),
    "headers": st.dictionaries(storable_texts, storable_texts, max_size=3).map(json.dumps),
}
"""Odd values that are taken, so that they must be read as they were sent."""
FRESH = combined(
    lambda text, number: json.dumps(f"{text[:60]}{number:x}"),
    mostly(storable_texts, ids),
    st.integers(0, 2**64),
)
"""Ids that hardly come twice, so that not all is a conflict."""


@st.composite
def event_texts(draw: st.DrawFn) -> str:
    """Make the JSON of an event, which may be refused for it."""
    name = draw(st.sampled_from(sorted(TYPES)))
    fields = {"type": json.dumps(name), "source": '"fuzz"', **TYPES[name]}
    if draw(st.integers(0, 9)) < 9:
        fields["id"] = draw(FRESH)
    for field in draw(st.lists(st.sampled_from(sorted(HARMLESS)), max_size=4, unique=True)):
        fields[field] = draw(HARMLESS[field])
    if draw(st.booleans()):
        return json_object([(json.dumps(field), value) for field, value in fields.items()])
    for field in draw(st.lists(st.sampled_from(sorted(CHANGES)), max_size=2, unique=True)):
        fields[field] = draw(CHANGES[field])
    pairs = [(json.dumps(field), value) for field, value in fields.items()]
    if draw(st.integers(0, 4)) == 4:  # anything, anywhere: also a field for the second time
        field = draw(st.one_of(st.sampled_from(FIELDS).map(json.dumps), json_texts))
        pairs.insert(draw(st.integers(0, len(pairs))), (field, draw(json_values)))
    if draw(st.integers(0, 9)) == 9:
        pairs.pop(draw(st.integers(0, len(pairs) - 1)))
    return json_object(pairs)


@st.composite
def batches(draw: st.DrawFn) -> str:
    """Make the JSON of a batch; one of its events may be no event at all."""
    events = draw(st.lists(event_texts(), max_size=4))
    if draw(st.integers(0, 3)) == 3:
        events.insert(draw(st.integers(0, len(events))), draw(json_values))
    if draw(st.integers(0, 19)) == 19:
        events = events * 400  # more than a batch may have
    return f"[{','.join(events)}]"


def encoded(text: str) -> bytes:
    """Return a text in UTF-8, half characters as bytes that no UTF-8 has."""
    return text.encode(errors="surrogatepass")


def sent_events(body: bytes) -> list[dict[str, object]]:
    """Return what a body of JSON says, which was accepted: one event, or those of a batch."""
    said = json.loads(body)
    return said if isinstance(said, list) else [said]  # pyright: ignore[reportUnknownVariableType] - of JSON
