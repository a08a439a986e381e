"""Putting events into the log, each with its deliveries, in one statement."""

import json
from collections.abc import Sequence

from ...core.events import Event
from ..database import Fetch
from .codec import Encoded, InvalidEvent, encode, load_json

# One statement, so that an event without its deliveries can never be seen. The rows go in by id
# order: two flushes that share ids then wait for each other in turn instead of deadlocking.
PUBLISH = """
WITH accepted AS (
    INSERT INTO events (id, type, source, scope, timestamp, payload, headers)
    SELECT o.id, o.type, o.source, o.scope, o.timestamp, o.payload::jsonb, o.headers::jsonb
      FROM unnest($1::text[], $2::text[], $3::text[], $4::text[],
                  $5::timestamptz[], $6::text[], $7::text[])
        AS o (id, type, source, scope, timestamp, payload, headers)
     ORDER BY o.id
        ON CONFLICT (id) DO NOTHING
    RETURNING seq, id, type, scope
), owed AS (
    INSERT INTO deliveries (subscriber, seq, scope)
    SELECT s.name, a.seq, a.scope
      FROM accepted a
      JOIN subscriptions s
        ON (s.types IS NULL OR a.type = ANY (s.types)) AND a.type <> ALL (s.excluded)
        ON CONFLICT DO NOTHING
)
SELECT id FROM accepted
"""

# A second look, taken only when an id was known already. Its snapshot sees what the first waited for.
KNOWN = """
SELECT id, type, source, scope, timestamp, payload FROM events WHERE id = ANY ($1::text[])
"""


class EventConflict(ValueError):
    """An id was published before with other content."""


async def insert_events(fetch: Fetch, events: Sequence[Event], max_depth: int) -> set[str]:
    """Insert events and what is owed of them, and return the ids that were new.

    An id that is known with the same content is passed over, so a producer may send again.

    Raises:
        InvalidEvent: an event cannot be stored, or its chain of causes is too long.
        EventConflict: an id is known with other content; nothing is inserted.
    """
    for event in events:
        if event.meta.depth > max_depth:
            raise InvalidEvent(
                f"meta.depth: {event.type} has {event.meta.depth} events behind it and"
                f" EVENT_MAX_DEPTH is {max_depth}: is the agent feeding on its own actions?"
            )
    encoded = [encode(event) for event in events]
    columns = [list(column) for column in zip(*encoded, strict=True)] or [[] for _ in range(7)]
    accepted = {row["id"] for row in await fetch(PUBLISH, *columns)}
    known = [
        (event, row) for event, row in zip(events, encoded, strict=True) if row.id not in accepted
    ]
    if known:
        await _refuse_other_content(fetch, known)
    return accepted


async def _refuse_other_content(fetch: Fetch, known: list[tuple[Event, Encoded]]) -> None:
    """Compare what was sent with what is stored; a time that we made up ourselves does not count."""
    stored = {row["id"]: row for row in await fetch(KNOWN, [row.id for _, row in known])}
    for event, sent in known:
        row = stored[sent.id]
        same = (row["type"], row["source"], row["scope"]) == (sent.type, sent.source, sent.scope)
        same_time = "timestamp" not in event.model_fields_set or row["timestamp"] == sent.timestamp
        if not (same and same_time and load_json(row["payload"]) == json.loads(sent.payload)):
            raise EventConflict(
                f"id: {sent.id!r} was published before with other content: send a new id"
            )
