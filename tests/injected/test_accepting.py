"""What any type of event accepts can be read again and is equal, and sent twice it is a duplicate.

Hypothesis makes up the fields of every type of the union, in JSON and odd numbers and text included.
"""

import itertools
import json
from collections.abc import Callable, Generator
from typing import Any, get_args, get_origin

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as budget
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from my_agent.config import Settings
from my_agent.core import events
from my_agent.core.events import BaseEvent, Event, event_adapter
from my_agent.infra.store import InvalidEvent

from .world import World, open_world

MEMBERS: list[type[BaseEvent]] = list(get_args(get_args(Event)[0]))
NUMBERS = itertools.count()

odd_text = st.text(st.characters(exclude_categories=[]), max_size=20)
text = st.text(max_size=20) | odd_text | st.sampled_from(["NaN", "1e+300", "\x00", "\ud83d", "{["])
numbers = (
    st.integers()
    | st.floats()
    | st.sampled_from([6.02e23, 1e16, -1e300, 5e-324, -0.0, 10**4_299, 2**63])
)
values = st.recursive(
    st.none() | st.booleans() | numbers | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)


def nested(levels: int) -> Any:
    """A list in a list, so many times."""
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


anything = values | numbers | st.sampled_from([55, 62, 63, 64, 199, 220]).map(nested)


@pytest.fixture(scope="module")
def world(server_url: str, make_settings: Callable[[str], Settings]) -> Generator[World]:
    """A store on a database that all the made-up events share."""
    with open_world(server_url, make_settings) as world:
        yield world


def field(name: str, info: FieldInfo) -> st.SearchStrategy[Any]:
    """Values that a field may take, and some that it may not."""
    if name == "type":
        return st.just(info.default)
    if name == "version":
        return st.just(info.default)
    if name == "timestamp":
        return st.datetimes(timezones=st.just(events.UTC)).map(lambda time: time.isoformat())
    if name == "meta":
        return st.fixed_dictionaries({}, optional={"trace_id": text, "correlation_id": text})
    plain = {str: text, int: st.integers(), float: numbers, bool: st.booleans()}
    made: list[st.SearchStrategy[Any]] = []
    for kind in (info.annotation, *get_args(info.annotation)):
        if kind in plain:
            made.append(plain[kind])
        elif isinstance(kind, str):  # of a Literal
            made.append(st.just(kind))
        elif get_origin(kind) is dict:
            inner = text if get_args(kind)[1] is str else anything
            made.append(st.dictionaries(text, inner, max_size=3))
        elif get_origin(kind) is list:
            made.append(st.lists(text, max_size=3))
    return st.one_of(made) if made else anything


def fields_of(member: type[BaseModel]) -> st.SearchStrategy[dict[str, Any]]:
    """Fields of an event of this type, those with a default at times left out."""
    made = {name: field(name, info) for name, info in member.model_fields.items() if name != "id"}
    always = {
        name: strategy
        for name, strategy in made.items()
        if member.model_fields[name].is_required() or name == "type"
    }
    others = {name: strategy for name, strategy in made.items() if name not in always}
    return st.fixed_dictionaries(always, optional=others)


def accepted(fields: dict[str, Any]) -> list[Event]:
    """The event that the doors make of these fields, as JSON and as Python values; none if neither."""
    found: list[Event] = []
    try:
        as_json = json.loads(json.dumps(fields))
    except ValueError:  # more digits than are read
        as_json = fields
    for given_fields in (as_json, fields):
        try:
            found.append(event_adapter.validate_python(given_fields))
        except ValidationError:
            continue
    return found


@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.__name__)
def test_whatever_is_accepted_is_readable_and_equal_and_its_repetition_is_a_duplicate(
    world: World, member: type[BaseEvent]
) -> None:
    kept = 0

    @budget(
        max_examples=200,
        deadline=None,  # the machine may be slow
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(fields_of(member))
    def run_injected(fields: dict[str, Any]) -> None:
        nonlocal kept
        for event in accepted({**fields, "id": f"{member.__name__}-{next(NUMBERS)}"}):
            event = event.model_copy(update={"id": f"{member.__name__}-{next(NUMBERS)}"})
            try:
                world.call(world.store.publish(event))
            except InvalidEvent as refusal:
                assert ": " in str(refusal), "the sentence names the field"
                continue
            kept += 1
            assert world.call(world.store.find(event.id)) == event
            assert world.call(world.store.publish(event)) is False
            assert world.call(world.store.publish_many([event, event])) == 0

    run_injected()

    assert kept >= 20, "what is tried is mostly refused"
