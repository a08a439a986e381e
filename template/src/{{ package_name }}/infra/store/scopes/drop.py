"""Drops held events without an action.

Their deliveries are deleted; the log keeps the events. The same transaction publishes an `agent.dropped`
for each scope, with their ids and the reason. The view `event_status` reads it.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

import logfire

from ....core.events import AgentDroppedEvent, BaseEvent, EventMeta
from ....core.units import Scope
from ...database import Fetch, Row
from ...telemetry import counters
from ..claim import MATCHES_TOKENS, Token, columns
from ..codec import Limits, load_json
from ..insert import insert_events

MAX_ID_LENGTH = 200  # characters; only a statement that was run by hand stores longer ones
MAX_DROP = 1_000  # deliveries in a transaction and ids in an event, about 40 kB

# The new version invalidates cached contexts: the number of held events could be the same again. Scopes are
# locked first and by name, as all transactions do, which prevents deadlocks.
ADVANCE_VERSIONS = """
INSERT INTO scopes (subscriber, scope, version)
SELECT $1, t.scope, 1 FROM unnest($2::text[]) AS t (scope) ORDER BY t.scope
    ON CONFLICT (subscriber, scope) DO UPDATE SET version = scopes.version + 1
RETURNING scope, version
"""

DROP = f"""
WITH dropped AS (
    DELETE FROM deliveries d
     WHERE {MATCHES_TOKENS}
    RETURNING d.seq, d.scope
)
SELECT dropped.scope, e.id, e.headers
  FROM dropped JOIN events e ON e.seq = dropped.seq
 ORDER BY dropped.scope, e.seq
"""  # noqa: S608 - interpolates constant SQL only


class HeldDeliveries(NamedTuple):
    """Held deliveries of one scope."""

    scope: Scope
    tokens: Sequence[Token]


async def drop(
    fetch: Fetch, subscriber: str, held: Iterable[HeldDeliveries], reason: str, limits: Limits
) -> tuple[list[AgentDroppedEvent], dict[Scope, int]]:
    """Drop held deliveries, in the caller's transaction.

    Returns the published events and the new version of each scope. Deliveries that another worker settled
    meanwhile are left out. Call `report` after the commit.
    """
    held = list(held)
    rows = await fetch(ADVANCE_VERSIONS, subscriber, [each.scope for each in held])
    versions = {row["scope"]: row["version"] for row in rows}
    dropped = await fetch(DROP, subscriber, *columns(t for each in held for t in each.tokens))
    published = [
        _dropped_event(subscriber, chunk, reason, limits.depth)
        for _, group in groupby(dropped, itemgetter("scope"))
        for chunk in _chunks(list(group))
    ]
    covered = [id for event in published for id in event.covers]
    await insert_events(fetch, published, limits.for_covering(covered))
    return published, versions


def report(published: Iterable[AgentDroppedEvent]) -> None:
    """Update the counters and log the drops."""
    for event in published:
        count = len(event.covers)
        counters.published.add(1)
        counters.handled.add(count)
        counters.dropped.add(count)
        logfire.warn(
            "Dropped {count} held events of scope {scope}: {reason}",
            count=count,
            scope=event.scope,
            reason=event.reason,
        )


def _chunks(rows: list[Row]) -> list[list[Row]]:
    return [rows[start : start + MAX_DROP] for start in range(0, len(rows), MAX_DROP)]


def _dropped_event(
    subscriber: str, rows: list[Row], reason: str, max_depth: int
) -> AgentDroppedEvent:
    return AgentDroppedEvent(
        source=f"agent:{subscriber}",
        scope=rows[0]["scope"],
        reason=reason,
        covers=[row["id"] for row in rows],
        meta=_caused_meta(rows[-1], max_depth),
    )


def _caused_meta(row: Row, max_depth: int) -> EventMeta:
    """Return the meta of an event caused by the newest dropped one, with its depth within the limit."""
    cause = row["id"][:MAX_ID_LENGTH]
    try:
        meta = EventMeta.model_validate(load_json(row["headers"]))
    except ValueError:  # newer code wrote it, or a statement that was run by hand
        return EventMeta(causation_id=cause)
    caused = BaseEvent.model_construct(id=cause, meta=meta).caused()
    return caused.model_copy(update={"depth": min(caused.depth, max_depth)})
