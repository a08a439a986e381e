"""The command that explains the state of one event."""

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any

import typer
from pydantic_core import to_jsonable_python

from .. import COMMAND
from ..infra.store import EventStore
from ..infra.store.codec import ERASED
from ..infra.store.fates import Fate, Why
from ..infra.store.why import explain
from ..infra.text import json_line
from .output import Json, echo, fail
from .store import with_store

app = typer.Typer()

WIDTH = 12
"""Width of the labels, in characters."""


@app.command(epilog=f"Examples: {COMMAND} why 01933b5e-..., {COMMAND} why 01933b5e-... --json")
def why(
    event_id: Annotated[
        str, typer.Argument(help="The id of the event, as publishing returned it.")
    ],
    as_json: Json = False,
) -> None:
    """Show who published an event and when, its state for each subscriber, and what it waits for."""

    async def run(store: EventStore) -> Why | None:
        return await explain(store.by_index, event_id, store.settings)

    found = with_store(run)
    if found is None:
        fail(f"The log has no event {event_id!r}: it was never accepted, or it was deleted.")
    if as_json:
        fates = [fate._asdict() for fate in found.fates]
        echo(json_line(to_jsonable_python(found._asdict() | {"fates": fates})))
        return
    echo(*(f"{name:{WIDTH}}{value}".rstrip() for name, value in _event_lines(found)))
    for fate in found.fates:
        echo("", *(f"{name:{WIDTH}}{value}".rstrip() for name, value in _fate_lines(fate)))


def _event_lines(found: Why) -> Iterator[tuple[str, object]]:
    """Yield labels and values of the event itself."""
    yield "event", found.id
    yield "type", found.type
    yield "scope", found.scope
    yield "published", f"{_time(found.recorded_at)} by {found.source}"
    if found.timestamp != found.recorded_at:
        yield "happened", _time(found.timestamp)
    if erased := _get(found.meta, ERASED):
        yield "erased", f"{erased}: only ids, times and causes are left"
    names = {"caused by": "causation_id", "correlated": "correlation_id", "trace": "trace_id"}
    for name, key in names.items():
        if value := _get(found.meta, key):
            yield name, value
    if not found.fates:
        yield "subscriber", "none subscribes to this type: it is only in the log"


def _fate_lines(fate: Fate) -> Iterator[tuple[str, object]]:
    """Yield labels and values of the event's state for one subscriber."""
    yield "subscriber", fate.subscriber
    yield "state", fate.state
    yield "reason", fate.reason
    if fate.attempts:
        yield "attempts", fate.attempts
    if fate.since is not None:
        yield "since", _time(fate.since)
    if fate.until is not None:
        yield "until", _time(fate.until)
    if fate.led_to is not None:
        yield "led to", fate.led_to
    if fate.error is not None:
        yield "error", fate.error
    for line in (fate.traceback or "").splitlines():
        yield "", line


def _get(meta: Any, key: str) -> object:
    """Return a field of an event's meta; a row that was edited by hand may hold any JSON."""
    return meta.get(key) if hasattr(meta, "get") else None


def _time(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds")
