"""Drops events without an action: by a trigger's outcome, because they were held too long, or too many in a scope.

Their deliveries are deleted; the log keeps the events. The same transaction publishes an `agent.dropped`
for each scope, with their ids and the reason. The view `event_status` reads it.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Literal, NamedTuple

import logfire

from ....core.events import AgentDroppedEvent, BaseEvent, EventMeta
from ....core.units import Scope
from ...database import Fetch, Row
from ...telemetry import counters
from ..claim import MATCHES_TOKENS, Token, columns
from ..codec import Limits, load_json
from ..insert import insert_events
from .hold import HOLD
from .pins import END
from .state import ScopeMoved

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


# A trigger's outcome ends the wait that an earlier one began. If the drop leaves events ($4), a wait that is over at once
# takes its place: the trigger has not answered for them, and perhaps no other event comes.
SET_NOTES = """
UPDATE scopes
   SET scratch = $3::text::jsonb, wake_at = CASE WHEN $4 THEN now() END
 WHERE subscriber = $1 AND scope = $2
"""


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


class DecidedDrop(NamedTuple):
    """A decision to drop deliveries of a scope at `version`, held ones and those in flight, and to hold the others."""

    scope: Scope
    version: int
    dropped: Sequence[Token]
    kept: Sequence[Token]
    """The deliveries in flight that are held."""
    leaves_events: bool
    """Whether the scope holds events afterwards, for which the trigger is evaluated again."""
    scratch: str
    """The notes of the scope, as JSON."""
    reason: str
    ends: str | None = None
    """The action id of the decision, if units of it are recorded."""


async def drop_decided(
    fetch: Fetch, subscriber: str, decision: DecidedDrop, limits: Limits
) -> list[AgentDroppedEvent]:
    """Drop and hold what a decision says, in the caller's transaction; return the published events.

    Raises:
        ScopeMoved: another worker changed the scope or settled one of the events; roll the transaction back.
    """
    scope, held = decision.scope, HeldDeliveries(decision.scope, decision.dropped)
    published, versions = await drop(fetch, subscriber, [held], decision.reason, limits)
    if versions[scope] != decision.version + 1:
        raise ScopeMoved(f"scope {scope!r} was changed by another worker")
    await fetch(SET_NOTES, subscriber, scope, decision.scratch, decision.leaves_events)
    if decision.ends is not None:
        await fetch(END, subscriber, scope, decision.ends)
    kept = await fetch(HOLD, subscriber, *columns(decision.kept), [], [], [], [], [])
    count = sum(len(event.covers) for event in published)
    if (count, len(kept)) != (len(decision.dropped), len(decision.kept)):
        raise ScopeMoved("some of the events were settled by another worker")
    return published


def report(published: Iterable[AgentDroppedEvent], level: Literal["info", "warn"] = "warn") -> None:
    """Update the counters and log the drops."""
    for event in published:
        count = len(event.covers)
        counters.published.add(1)
        counters.handled.add(count)
        counters.dropped.add(count)
        logfire.log(
            level,
            "Dropped {count} events of scope {scope}: {reason}",
            {"count": count, "scope": event.scope, "reason": event.reason},
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
