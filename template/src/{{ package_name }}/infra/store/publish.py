"""Putting events into the log, each with its deliveries, in one statement."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import NamedTuple, cast

from logfire.propagate import get_context
from opentelemetry.trace import Span

from ...core.events import Event
from ..database import Fetch, Row
from ..spans import is_traced, shared_insert, step
from . import counters
from .codec import (
    Encoded,
    Limits,
    NewerEvent,
    Unreadable,
    aware,
    encode,
    refuse_invalid,
    reread,
)
from .lanes import FLUSH_MOST, Lane, SharedFlush
from .refusal import InvalidEvent

# One statement, so that an event without its deliveries can never be seen. The rows go in by id
# order: two flushes that share ids then wait for each other in turn instead of deadlocking.
PUBLISH = """
WITH accepted AS (
    INSERT INTO events (id, type, source, scope, timestamp, payload, headers)
    SELECT o.id, o.type, o.source, o.scope, o.timestamp, o.payload::jsonb, o.headers::jsonb
      FROM {rows} AS o (id, type, source, scope, timestamp, payload, headers)
     ORDER BY o.id
        ON CONFLICT (id) DO NOTHING
    RETURNING seq, id, type, scope
), owed AS (
    INSERT INTO deliveries (subscriber, seq, scope)
    SELECT s.name, a.seq, a.scope
      FROM accepted a
      JOIN subscriptions s
        ON (s.types IS NULL OR a.type = ANY (s.types)) AND a.type <> ALL (s.excluded)
)
SELECT id FROM accepted
"""
PUBLISH_MANY = PUBLISH.format(
    rows="unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::text[],"
    " $7::text[])"
)
# Arrays of one take a fifth longer than plain values, on the way of every single event.
PUBLISH_ONE = PUBLISH.format(
    rows="(VALUES ($1::text, $2::text, $3::text, $4::text, $5::timestamptz, $6::text, $7::text))"
)

# A second look, taken only when an id was known already. Its snapshot sees what the first waited for.
KNOWN = """
SELECT id, type, source, scope, timestamp, payload FROM events WHERE id = ANY ($1::text[])
"""

ENDS = frozenset({"agent.action", "agent.dropped"})
"""What a chain of events may end with, at `EVENT_MAX_DEPTH`; anything else may be answered."""


class EventConflict(ValueError):
    """An id was published before with other content."""


class Sent(NamedTuple):
    """An event as it goes to the database."""

    row: Encoded
    event: Event
    span: Span | None = None
    """That of its publishing, if that is traced and shares a statement with others."""


class Publisher:
    """Publishes for one process: single events share commits on a lane, batches have their own."""

    def __init__(self, lane: Lane, limits: Limits) -> None:
        self._lane = lane
        self._limits = limits
        self._shared = SharedFlush[Sent, bool](self._flush)

    async def publish(self, event: Event) -> bool:
        """Insert an event in a commit that it may share; False if its id was known.

        Raises:
            InvalidEvent: it cannot be stored, or its chain of causes is too long.
            EventConflict: its id is known with other content.
        """
        if not is_traced():
            return await self._shared.submit(check(event, self._limits, None))
        with step("store.publish", event_id=event.id, event_type=event.type) as span:
            sent = check(event, self._limits, current_trace())
            return await self._shared.submit(sent._replace(span=span))

    async def close(self) -> None:
        """Wait until what was accepted is committed."""
        await self._shared.close()

    async def _flush(self, batch: list[Sent]) -> "Sequence[bool | EventConflict]":
        with shared_insert([sent.span for sent in batch if sent.span], len(batch)):
            results = await _insert(self._lane.fetch, batch)
        counters.published.add(results.count(True))
        return results


async def insert_events(fetch: Fetch, events: Sequence[Event], limits: Limits) -> int:
    """Insert events and what is owed of them, and return how many were new.

    An id that is known with the same content is passed over, so a producer may send again. Call it
    inside a transaction, which a conflict then rolls back.

    Raises:
        InvalidEvent: an event cannot be stored, or its chain of causes is too long.
        EventConflict: an id is known with other content.
    """
    new, traceparent = 0, current_trace()
    inserting: asyncio.Future[int] | None = None
    try:
        for start in range(0, len(events), FLUSH_MOST):
            some = events[start : start + FLUSH_MOST]
            chunk = [
                _checked(event, limits, traceparent, number)
                for number, event in enumerate(some, start)
            ]
            new += await inserting if inserting else 0
            inserting = asyncio.ensure_future(_insert_chunk(fetch, chunk))
            await asyncio.sleep(0)  # sent to the server, which works while we encode the next
        return new + (await inserting if inserting else 0)
    finally:
        if inserting and not inserting.done():  # the connection must be free for the rollback
            await asyncio.wait([inserting])


def current_trace() -> str | None:
    """Return the W3C trace context of what is going on, if it is traced."""
    if not is_traced():
        return None  # found out in a tenth of the time
    return get_context().get("traceparent")


def check(event: Event, limits: Limits, traceparent: str | None) -> Sent:
    """Return the event with its columns, if it may be published, as part of a trace.

    Raises:
        InvalidEvent: it cannot be stored, or its chain of causes is too long.
    """
    try:
        # One that could not be answered would spoil every decision of the scope that holds it.
        if event.meta.depth > limits.depth - (event.type not in ENDS):
            raise InvalidEvent(
                f"meta.depth: {event.type} has {event.meta.depth} events behind it and"
                f" EVENT_MAX_DEPTH is {limits.depth}, the answer to it included: is the agent feeding on"
                " its own actions?"
            )
        encoded = encode(event, limits, traceparent)
    except (AttributeError, TypeError) as error:  # it was made, or changed, past its validation
        raise refuse_invalid(event, error) from error
    return Sent(encoded, event)


def _checked(event: Event, limits: Limits, traceparent: str | None, index: int) -> Sent:
    try:
        return check(event, limits, traceparent)
    except InvalidEvent as error:
        error.index = index
        raise


async def _insert_chunk(fetch: Fetch, chunk: list[Sent]) -> int:
    results = await _insert(fetch, chunk)
    for result in results:
        if isinstance(result, EventConflict):
            raise result
    return results.count(True)


async def _insert(fetch: Fetch, batch: Sequence[Sent]) -> "list[bool | EventConflict]":
    """Insert in one statement, and say of each whether it is new."""
    if len(batch) == 1:
        rows = await fetch(PUBLISH_ONE, *batch[0].row)
    else:
        columns = [list(column) for column in zip(*(sent.row for sent in batch), strict=True)]
        rows = await fetch(PUBLISH_MANY, *columns)
    if len(rows) == len(batch):
        return [True] * len(batch)
    return await _compare(fetch, batch, {row["id"] for row in rows})


async def _compare(
    fetch: Fetch, batch: Sequence[Sent], accepted: set[str]
) -> "list[bool | EventConflict]":
    """Say of each whether it is new, known, or has an id that stands for something else.

    Of two with one id, either may be the one that was inserted: both are compared with it.
    """
    often = Counter(sent.row.id for sent in batch)
    known = [id for id in often if id not in accepted or often[id] > 1]
    stored = {row["id"]: row for row in await fetch(KNOWN, known)}
    results: list[bool | EventConflict] = []
    for sent in batch:
        row = stored.get(sent.row.id)
        if row and not _same(row, sent):
            results.append(_conflict(sent))
            continue
        results.append(sent.row.id in accepted)
        accepted.discard(sent.row.id)
    return results


def _conflict(sent: Sent) -> EventConflict:
    return EventConflict(
        f"id: {sent.row.id!r} was published before with other content: send a new id"
    )


def _same(row: Row, sent: Sent) -> bool:
    """Compare what was sent with what is stored; what we made up ourselves does not count.

    Both as today's code reads them, so that a deploy between two sendings does not matter, with its new
    fields and their defaults, nor the order of a set.
    """
    new = sent.row
    if (row["type"], row["source"], row["scope"]) != (new.type, new.source, new.scope):
        return False
    try:
        stored = reread(
            new._replace(timestamp=aware(row["timestamp"]), payload=row["payload"], headers="{}")
        )
        repeated = reread(new)
    except (Unreadable, NewerEvent):  # older code accepted what cannot be read today
        return False
    given = sent.event.model_fields_set
    if "timestamp" in given and stored.timestamp != repeated.timestamp:
        return False
    apart = {"meta", "timestamp", *(name for name in _made_up(sent.event) if name not in given)}
    return _alike(stored.model_dump(exclude=apart), repeated.model_dump(exclude=apart))


def _made_up(event: Event) -> Iterator[str]:
    """Yield the fields whose default is another one each time, such as an id or a time."""
    for name, field in type(event).model_fields.items():
        if field.default_factory is not None:
            anew = field.get_default(call_default_factory=True, validated_data=vars(event))
            if anew != getattr(event, name):
                yield name


def _alike(stored: object, sent: object) -> bool:
    """Compare JSON values. Release 0.1.0 stored large floats as integers: those are compared as floats."""
    if stored == sent:
        return True
    if isinstance(stored, dict) and isinstance(sent, dict):
        ours, theirs = cast("dict[str, object]", stored), cast("dict[str, object]", sent)
        return ours.keys() == theirs.keys() and all(_alike(ours[key], theirs[key]) for key in ours)
    if isinstance(stored, list) and isinstance(sent, list):
        pairs = cast("tuple[list[object], list[object]]", (stored, sent))
        return len(pairs[0]) == len(pairs[1]) and all(map(_alike, *pairs))
    if isinstance(stored, int) and isinstance(sent, float):
        return Decimal(stored) == Decimal(repr(sent))
    return False
