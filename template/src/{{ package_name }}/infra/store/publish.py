"""Publishes events: inserts them and their deliveries in one statement."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import NamedTuple, cast

from opentelemetry.trace import Span

from ...core.events import Event
from ..database import Fetch, Row
from ..telemetry.spans import group_commit_insert, is_traced, records_details, step
from . import counters
from .codec import (
    Encoded,
    Limits,
    NewerEvent,
    Unreadable,
    encode,
    read_back,
    refuse_invalid,
)
from .dedicated import DedicatedConnection
from .group_commit import MAX_COMMIT_ITEMS, GroupCommit
from .refusal import InvalidEvent, refuse_deep
from .times import calendar_time, with_timezone

# Inserts a delivery of each `accepted` event for each subscription to its type.
ADD_DELIVERIES = """added AS (
    INSERT INTO deliveries (subscriber, seq, scope)
    SELECT s.name, a.seq, a.scope
      FROM accepted a
      JOIN subscriptions s
        ON (s.types IS NULL OR a.type = ANY (s.types)) AND a.type <> ALL (s.excluded)
)"""


def _statement(rows: str) -> str:
    """Return the statement that inserts `rows` and their deliveries, which become visible together.

    It inserts the rows in their order, so their `seq` has the order in which a scope's events are handled.
    """
    return f"""
WITH accepted AS (
    INSERT INTO events (id, type, source, scope, timestamp, payload, headers)
    SELECT o.id, o.type, o.source, o.scope, o.timestamp, o.payload::jsonb, o.headers::jsonb
      FROM {rows} AS o (id, type, source, scope, timestamp, payload, headers, n)
     ORDER BY o.n
        ON CONFLICT (id) DO NOTHING
    RETURNING seq, id, type, scope
), {ADD_DELIVERIES}
SELECT id FROM accepted
"""  # noqa: S608 - interpolates constant SQL only


PUBLISH_MANY = _statement(
    "unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::text[],"
    " $7::text[]) WITH ORDINALITY"
)
# Arrays with one element take a fifth longer than plain values.
PUBLISH_ONE = _statement(
    "(VALUES ($1::text, $2::text, $3::text, $4::text, $5::timestamptz, $6::text, $7::text, 1))"
)

# Runs only if an id was stored already. Its snapshot includes rows that the insert had to wait for.
KNOWN = f"""
SELECT e.id, e.type, e.source, e.scope, {calendar_time("e.timestamp")} AS timestamp, e.payload
  FROM events e
 WHERE e.id = ANY ($1::text[])
"""  # noqa: S608 - interpolates constant SQL only

TERMINAL_TYPES = frozenset({"agent.action", "agent.dropped"})
"""The types allowed at `EVENT_MAX_DEPTH`, since no event follows them."""


class EventConflict(ValueError):
    """An event with this id and other content was published before."""


class PreparedEvent(NamedTuple):
    """An event with its columns, ready to be inserted."""

    row: Encoded
    event: Event
    span: Span | None = None
    """The span of its publishing, if it is traced and may share a statement with others."""


class Publisher:
    """Publishes single events of one process, by group commit on a dedicated connection."""

    def __init__(self, connection: DedicatedConnection, limits: Limits) -> None:
        self._connection = connection
        self._limits = limits
        self._group = GroupCommit[PreparedEvent, bool](self._flush)

    async def publish(self, event: Event) -> bool:
        """Insert an event, in a commit that it may share; return False if it was published before.

        Raises:
            InvalidEvent: it cannot be stored, or its chain of causes is too long.
            EventConflict: its id was published before with other content.
        """
        if not records_details() or not is_traced():
            return await self._group.submit(prepare(event, self._limits, current_trace()))
        with step("store.publish", event_id=event.id, event_type=event.type) as span:
            prepared = prepare(event, self._limits, current_trace())
            return await self._group.submit(prepared._replace(span=span))

    async def close(self) -> None:
        """Wait until all submitted events are committed."""
        await self._group.close()

    async def _flush(self, batch: list[PreparedEvent]) -> "Sequence[bool | EventConflict]":
        with group_commit_insert(
            [prepared.span for prepared in batch if prepared.span], len(batch)
        ):
            results = await _insert(self._connection.fetch, batch)
        counters.published.add(results.count(True))
        return results


async def insert_events(fetch: Fetch, events: Sequence[Event], limits: Limits) -> int:
    """Insert events with their deliveries; return how many were new.

    An event that was published before with the same content is skipped, so producers may repeat it. Call this
    inside a transaction, which a conflict then rolls back.

    Raises:
        InvalidEvent: an event cannot be stored, or its chain of causes is too long.
        EventConflict: an id was published before with other content.
    """
    new, traceparent = 0, current_trace()
    inserting: asyncio.Future[int] | None = None
    try:
        for start in range(0, len(events), MAX_COMMIT_ITEMS):
            some = events[start : start + MAX_COMMIT_ITEMS]
            chunk = [
                _prepare_nth(event, limits, traceparent, number)
                for number, event in enumerate(some, start)
            ]
            new += await inserting if inserting else 0
            inserting = asyncio.ensure_future(_insert_chunk(fetch, chunk))
            # Sends it, so that the server works while the next chunk is encoded.
            await asyncio.sleep(0)
        return new + (await inserting if inserting else 0)
    finally:
        if inserting and not inserting.done():  # the connection must be free for the rollback
            await asyncio.wait([inserting])


def current_trace() -> str | None:
    """Return the current W3C `traceparent`; None outside of a trace."""
    if not is_traced():
        return None  # takes a tenth of the time of the call below
    from logfire.propagate import get_context  # imported here, since commands have no traces

    return get_context().get("traceparent")


def prepare(event: Event, limits: Limits, traceparent: str | None) -> PreparedEvent:
    """Check an event and return it with its columns.

    Raises:
        InvalidEvent: it cannot be stored, or its chain of causes is too long.
    """
    try:
        # If no action could follow an event, every decision on the scope that holds it would fail.
        if event.meta.depth > limits.depth - (event.type not in TERMINAL_TYPES):
            raise refuse_deep(event, limits.depth)
        encoded = encode(event, limits, traceparent)
    except (AttributeError, TypeError) as error:  # it was built or changed without validation
        raise refuse_invalid(event, error) from error
    return PreparedEvent(encoded, event)


def _prepare_nth(
    event: Event, limits: Limits, traceparent: str | None, index: int
) -> PreparedEvent:
    try:
        return prepare(event, limits, traceparent)
    except InvalidEvent as error:
        error.index = index
        raise


async def _insert_chunk(fetch: Fetch, chunk: list[PreparedEvent]) -> int:
    results = await _insert(fetch, chunk)
    for result in results:
        if isinstance(result, EventConflict):
            raise result
    return results.count(True)


async def _insert(fetch: Fetch, batch: Sequence[PreparedEvent]) -> "list[bool | EventConflict]":
    """Insert in one statement; return for each event whether it is new, or a conflict."""
    if len(batch) == 1:
        rows = await fetch(PUBLISH_ONE, *batch[0].row)
    else:
        columns = [
            list(column) for column in zip(*(prepared.row for prepared in batch), strict=True)
        ]
        rows = await fetch(PUBLISH_MANY, *columns)
    if len(rows) == len(batch):
        return [True] * len(batch)
    return await _compare(fetch, batch, {row["id"] for row in rows})


async def _compare(
    fetch: Fetch, batch: Sequence[PreparedEvent], accepted: set[str]
) -> "list[bool | EventConflict]":
    """Return for each event whether it is new, or a conflict, when some ids were stored already.

    Of two events with the same id, either may have been inserted, so both are compared with the row.
    """
    counts = Counter(prepared.row.id for prepared in batch)
    known = [id for id in counts if id not in accepted or counts[id] > 1]
    stored = {row["id"]: row for row in await fetch(KNOWN, known)}
    results: list[bool | EventConflict] = []
    for prepared in batch:
        row = stored.get(prepared.row.id)
        if row and not _has_same_content(row, prepared):
            results.append(_conflict(prepared))
            continue
        results.append(prepared.row.id in accepted)
        accepted.discard(prepared.row.id)
    return results


def _conflict(prepared: PreparedEvent) -> EventConflict:
    return EventConflict(
        f"id: {prepared.row.id!r} was published before with other content: send a new id"
    )


def _has_same_content(row: Row, prepared: PreparedEvent) -> bool:
    """Return whether an event equals the stored one, except for generated fields such as a default time.

    Both are decoded by the current code. So neither new fields with defaults nor the order of a set make a
    difference if a producer repeats an event after a deploy.
    """
    new = prepared.row
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
    given = prepared.event.model_fields_set
    if "timestamp" in given and stored.timestamp != repeated.timestamp:
        return False
    ignored = {
        "meta",
        "timestamp",
        *(name for name in _generated_fields(prepared.event) if name not in given),
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
