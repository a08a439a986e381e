"""Reads the state of one scope now."""

from datetime import datetime
from typing import NamedTuple

from ....core.units import Scope
from ...database import Fetch
from ..claim import IS_PENDING
from ..journal import UNFINISHED
from .scan import SCANNED_EVENTS
from .scope_list import MAX_DEAD, MAX_HELD

MAX_PENDING = 10_000
"""The first pending deliveries of the subscriber among which those of the scope are counted."""

STATE = f"""
SELECT s.last_action_at, s.wake_at, s.scope IS NOT NULL AS known,
       h.held, h.held_since, p.action_id, p.begun_at,
       (SELECT count(*) FROM (
           SELECT d.scope FROM deliveries d
            WHERE d.subscriber = $1 AND d.dead_at IS NOT NULL
            ORDER BY d.dead_at DESC LIMIT {MAX_DEAD}) AS d WHERE d.scope = $2) AS dead,
       (SELECT count(*) FROM (
           SELECT d.scope FROM deliveries d
            WHERE d.subscriber = $1 AND d.due_at = 'epoch' AND {IS_PENDING}
            ORDER BY d.seq LIMIT {MAX_PENDING}) AS d WHERE d.scope = $2)
     + (SELECT count(*) FROM deliveries d
         WHERE d.subscriber = $1 AND d.scope = $2 AND d.fence <> 0 AND d.due_at > 'epoch' AND {IS_PENDING}
       ) AS pending,
       (SELECT count(*) FROM deliveries d
         WHERE d.subscriber = $1 AND d.scope = $2 AND d.fence <> 0 AND d.held_at IS NULL AND d.dead_at IS NULL
           AND d.lease IS NOT NULL) AS in_flight
  FROM (VALUES (1)) AS one
  LEFT JOIN scopes s ON s.subscriber = $1 AND s.scope = $2
  LEFT JOIN (SELECT p.scope, p.action_id, p.begun_at {UNFINISHED}
              WHERE p.subscriber = $1 AND p.scope = $2) AS p ON true
 CROSS JOIN (SELECT count(*) AS held, min(d.held_at) AS held_since
               FROM (SELECT d.held_at FROM deliveries d
                      WHERE d.subscriber = $1 AND d.scope = $2 AND d.held_at IS NOT NULL
                      ORDER BY d.seq LIMIT {MAX_HELD}) AS d) AS h
"""  # noqa: S608 - interpolates constant SQL only

IS_IN_LOG = f"""
SELECT EXISTS (SELECT FROM events r WHERE r.type = 'agent.action' AND r.scope = $1)
    OR EXISTS (SELECT FROM events r WHERE r.type = 'agent.dropped' AND r.scope = $1)
    OR EXISTS (SELECT FROM (SELECT e.scope FROM events e ORDER BY e.seq DESC LIMIT {SCANNED_EVENTS}) AS w
                WHERE w.scope = $1) AS found
"""  # noqa: S608 - interpolates constant SQL only


class UnfinishedDecision(NamedTuple):
    """A decision of which results are recorded, and which is not over."""

    action_id: str
    begun_at: datetime


class ScopeState(NamedTuple):
    """The state of a scope now."""

    scope: Scope
    held: int
    """At most `MAX_HELD` are counted."""
    held_since: datetime | None
    """When the oldest of them was held."""
    dead: int
    """Counted among the newest `MAX_DEAD` dead letters of the subscriber."""
    pending: int
    """Counted among the first `MAX_PENDING` pending deliveries of the subscriber, and with all that wait for a retry."""
    in_flight: int
    pinned: UnfinishedDecision | None
    wake_at: datetime | None
    """When its trigger is evaluated again without an event; None if no trigger waits."""
    last_action_at: datetime | None


async def read_scope(fetch: Fetch, subscriber: str, scope: Scope) -> ScopeState | None:
    """Return the state of a scope; None if it is not known."""
    if "\x00" in scope:
        return None
    [row] = await fetch(STATE, subscriber, scope)
    counts = (row["held"], row["dead"], row["pending"], row["in_flight"])
    if not (row["known"] or any(counts)) and not (await fetch(IS_IN_LOG, scope))[0]["found"]:
        return None
    pinned = row["action_id"] and UnfinishedDecision(row["action_id"], row["begun_at"])
    return ScopeState(
        scope,
        row["held"],
        row["held_since"],
        row["dead"],
        row["pending"],
        row["in_flight"],
        pinned,
        row["wake_at"],
        row["last_action_at"],
    )
