"""Giving up held events without an action, visibly.

Their deliveries go and the log keeps them. So the same transaction publishes, for each scope, an
`agent.dropped` that names them and the reason. The view of statuses reads it.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

import logfire
from pydantic import ValidationError

from ...core.events import AgentDroppedEvent, BaseEvent, EventMeta
from ...core.types import Scope, Seconds
from ..database import Fetch, Row
from . import counters
from .claim import OURS, Token, columns
from .codec import Limits, load_json
from .publish import insert_events

DROP_MOST = 1_000  # deliveries a transaction, ids an event: some 40 kB

# With stale statistics the planner would read all deliveries for each thousand of them.
BY_INDEX = """
SET LOCAL enable_seqscan = off;
SET LOCAL enable_bitmapscan = off;
SET LOCAL enable_hashjoin = off;
SET LOCAL enable_mergejoin = off
"""

# Continued after a place, so that what is held and not aged is read once and not for each chunk.
AGED = """
SELECT d.seq, d.fence, d.scope
  FROM deliveries d
 WHERE d.subscriber = $1 AND d.held_at < now() - $2::float8 * interval '1 second'
   AND (d.scope, d.seq) > ($3, $4::bigint)
 ORDER BY d.scope, d.seq
 LIMIT $5
"""

# The version moves, since a count that others add to meanwhile would not show what is gone. It moves
# first, in one order for everybody: an action too locks its scope before its deliveries.
MOVE_ALL = """
INSERT INTO scopes (subscriber, scope, version)
SELECT $1, t.scope, 1 FROM unnest($2::text[]) AS t (scope) ORDER BY t.scope
    ON CONFLICT (subscriber, scope) DO UPDATE SET version = scopes.version + 1
RETURNING scope, version
"""

DROP = f"""
WITH dropped AS (
    DELETE FROM deliveries d
     WHERE {OURS}
    RETURNING d.seq
)
SELECT e.scope, e.id, e.headers
  FROM dropped JOIN events e ON e.seq = dropped.seq
 ORDER BY e.scope, e.seq
"""  # noqa: S608 - no value goes in, only conditions


class ToDrop(NamedTuple):
    """Deliveries of one scope that are to be dropped."""

    scope: Scope
    tokens: Sequence[Token]


async def aged(fetch: Fetch, subscriber: str, age: Seconds, after: ToDrop | None) -> list[ToDrop]:
    """Return what has been held for longer than `age`, at most `DROP_MOST` deliveries.

    Pass the last of one call as `after` of the next.
    """
    place = (after.scope, after.tokens[-1].seq) if after else ("", 0)
    rows = await fetch(AGED, subscriber, age, *place, DROP_MOST)
    return [
        ToDrop(name, [Token(row["seq"], row["fence"]) for row in group])
        for name, group in groupby(rows, itemgetter("scope"))
    ]


async def drop(
    fetch: Fetch, subscriber: str, held: Iterable[ToDrop], reason: str, limits: Limits
) -> tuple[list[AgentDroppedEvent], dict[Scope, int]]:
    """Give up deliveries that scopes hold, in a transaction of the caller's.

    Return what was published about it, and the new version of each scope. What another worker has
    settled meanwhile is left out. Call `report` after the commit.
    """
    held = list(held)
    rows = await fetch(MOVE_ALL, subscriber, [each.scope for each in held])
    versions = {row["scope"]: row["version"] for row in rows}
    gone = await fetch(DROP, subscriber, *columns(t for each in held for t in each.tokens))
    published = [
        _dropped(subscriber, some, reason, limits.depth)
        for _, group in groupby(gone, itemgetter("scope"))
        for some in _chunks(list(group))
    ]
    covered = [id for event in published for id in event.covers]
    await insert_events(fetch, published, limits.beside(covered))
    return published, versions


def report(published: Iterable[AgentDroppedEvent]) -> None:
    """Count and log what was dropped, after the commit."""
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
    return [rows[start : start + DROP_MOST] for start in range(0, len(rows), DROP_MOST)]


def _dropped(subscriber: str, rows: list[Row], reason: str, max_depth: int) -> AgentDroppedEvent:
    return AgentDroppedEvent(
        source=f"agent:{subscriber}",
        scope=rows[0]["scope"],
        reason=reason,
        covers=[row["id"] for row in rows],
        meta=_caused_by(rows[-1], max_depth),
    )


def _caused_by(row: Row, max_depth: int) -> EventMeta:
    """Return the meta of what the newest of the events led to; no depth may keep it from the log."""
    try:
        meta = EventMeta.model_validate(load_json(row["headers"]))
    except ValidationError:  # newer code wrote it
        return EventMeta(causation_id=row["id"])
    caused = BaseEvent.model_construct(id=row["id"], meta=meta).caused()
    return caused.model_copy(update={"depth": min(caused.depth, max_depth)})
