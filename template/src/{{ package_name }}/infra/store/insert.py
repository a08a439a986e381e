"""Inserts events and their deliveries in one statement, and finds those that were published before."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from opentelemetry.trace import Span

from ...core.events import Event
from ..database import Fetch
from ..telemetry.spans import is_traced
from .codec import ERASED, Encoded, Limits, encode, refuse_invalid
from .group_commit import MAX_COMMIT_ITEMS
from .refusal import InvalidEvent, refuse_deep
from .repeats import has_same_content
from .times import calendar_time

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
SELECT e.id, e.type, e.source, e.scope, {calendar_time("e.timestamp")} AS timestamp, e.payload,
       e.headers ? '{ERASED}' AS erased
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
    results = await insert_each(fetch, chunk)
    for result in results:
        if isinstance(result, EventConflict):
            raise result
    return results.count(True)


async def insert_each(fetch: Fetch, batch: Sequence[PreparedEvent]) -> "list[bool | EventConflict]":
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
        if row and not has_same_content(row, prepared.row, prepared.event):
            results.append(_conflict(prepared))
            continue
        results.append(prepared.row.id in accepted)
        accepted.discard(prepared.row.id)
    return results


def _conflict(prepared: PreparedEvent) -> EventConflict:
    return EventConflict(
        f"id: {prepared.row.id!r} was published before with other content: send a new id"
    )
