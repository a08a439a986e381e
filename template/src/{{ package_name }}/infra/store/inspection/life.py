"""Reads the life of a scope: its events, actions and drops on one axis, newest first.

Actions and drops have indexes, and name the events that they cover, whose ids are unique. What is not settled has
deliveries. The rest of a scope's events has no index, so the log is scanned for it, by a bounded length.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Literal, NamedTuple

from ....core.units import Scope
from ...database import Fetch, Row
from ..byte_budget import read_within
from ..codec import Stored, decode_any
from ..cursor import MAX_BIGINT
from ..times import calendar_time, with_timezone
from .covers import Outcome, covers_of, find_covered, read_outcomes
from .scan import SCANNED_EVENTS
from .scope_list import MAX_DEAD

# The unsettled events of the scope below `$3`: held, claimed once, or among the newest dead letters.
UNSETTLED = f"""
(SELECT d.seq FROM deliveries d
  WHERE d.subscriber = $1 AND d.scope = $2 AND d.held_at IS NOT NULL AND d.seq < $3
  ORDER BY d.seq DESC LIMIT $4)
 UNION
(SELECT d.seq FROM deliveries d
  WHERE d.subscriber = $1 AND d.scope = $2 AND d.fence <> 0 AND d.held_at IS NULL AND d.dead_at IS NULL
    AND d.seq < $3
  ORDER BY d.seq DESC LIMIT $4)
 UNION
(SELECT d.seq
   FROM (SELECT l.seq, l.scope FROM deliveries l
          WHERE l.subscriber = $1 AND l.dead_at IS NOT NULL
          ORDER BY l.dead_at DESC LIMIT {MAX_DEAD}) AS d
  WHERE d.scope = $2 AND d.seq < $3
  ORDER BY d.seq DESC LIMIT $4)
"""  # noqa: S608 - interpolates constant SQL only

# The events of the scope among those below `$2`; `whole` is whether the scan came to the beginning of the log.
SCAN = f"""
SELECT count(*) AS looked_at, count(*) < {SCANNED_EVENTS} AS whole, {calendar_time("min(w.recorded_at)")} AS oldest,
       (array_agg(w.seq ORDER BY w.seq DESC) FILTER (WHERE w.scope = $1))[1:$3] AS seqs
  FROM (SELECT e.seq, e.scope, e.recorded_at FROM events e
         WHERE e.seq < $2 ORDER BY e.seq DESC LIMIT {SCANNED_EVENTS}) AS w
"""  # noqa: S608 - interpolates constant SQL only

DELIVERIES = """
SELECT d.seq, d.lease, d.held_at, d.dead_at, d.error
  FROM deliveries d
 WHERE d.subscriber = $1 AND d.seq = ANY ($2::bigint[])
"""

type Kind = Literal["event", "action", "dropped"]
type Status = Literal[
    "pending", "in flight", "held", "dead", "failed", "acted", "dropped", "settled"
]
KINDS: Mapping[str, Kind] = {"agent.action": "action", "agent.dropped": "dropped"}


class Entry(NamedTuple):
    """What happened in a scope at one time."""

    kind: Kind
    seq: int
    at: datetime
    """When it was recorded."""
    event: Stored
    status: Status
    """That of the subscriber's delivery; `failed` waits for its retry. Actions and drops are `settled`."""
    by: str | None
    """The id of the action or drop that covers an event."""
    covers: list[str]
    """The ids of the events that an action or drop covers."""


class ScopeLife(NamedTuple):
    """A part of the life of a scope, newest first."""

    entries: list[Entry]
    before: int | None
    """The `before` of the next page; None if this is the last."""
    looked_at: int
    """How many events of the log were scanned for those that no index finds."""
    oldest: datetime | None
    """When the oldest of these was recorded; None if the scan came to the beginning of the log."""


NO_LIFE = ScopeLife([], None, 0, None)


async def read_life(
    fetch: Fetch,
    subscriber: str,
    scope: Scope,
    before: int | None,
    limit: int,
    max_bytes: int,
) -> ScopeLife:
    """Return the newest entries with a `seq` below `before`: at most `limit`, and about `max_bytes`."""
    if "\x00" in scope:
        return NO_LIFE
    below = MAX_BIGINT if before is None else before
    outcomes = await read_outcomes(fetch, subscriber, scope, below, limit, max_bytes)
    covered = await find_covered(fetch, outcomes.covering, below)
    [scan] = await fetch(SCAN, scope, below, limit + 1)
    unsettled = await fetch(UNSETTLED, subscriber, scope, below, limit + 1)
    found = {*(scan["seqs"] or ()), *(row["seq"] for row in unsettled), *covered, *outcomes.rows}
    seqs = sorted((seq for seq in found if seq >= outcomes.floor), reverse=True)
    more = len(seqs) > limit or outcomes.floor > 0
    seqs = seqs[:limit]
    chunk = await read_within(fetch, seqs, max_bytes)
    deliveries = {row["seq"]: row for row in await fetch(DELIVERIES, subscriber, seqs)}
    entries = [
        _entry(row, deliveries.get(row["seq"]), covered.get(row["seq"])) for row in chunk.rows
    ]
    read = seqs[: chunk.rows_read]
    more = more or len(read) < len(seqs) or (not scan["whole"] and bool(read))
    oldest = None if scan["whole"] else with_timezone(scan["oldest"])
    return ScopeLife(entries, read[-1] if more and read else None, scan["looked_at"], oldest)


def _entry(row: Row, delivery: Row | None, outcome: Outcome | None) -> Entry:
    event, at = decode_any(row), with_timezone(row["recorded_at"])
    kind = KINDS.get(row["type"], "event")
    by = outcome.id if outcome is not None and kind == "event" else None
    covers = covers_of(row) if kind != "event" else []
    return Entry(kind, row["seq"], at, event, _status(delivery, outcome), by, covers)


def _status(delivery: Row | None, outcome: Outcome | None) -> Status:
    if delivery is None:
        if outcome is None:
            return "settled"
        return "acted" if outcome.type == "agent.action" else "dropped"
    if delivery["dead_at"] is not None:
        return "dead"
    if delivery["held_at"] is not None:
        return "held"
    if delivery["lease"] is not None:
        return "in flight"
    return "pending" if delivery["error"] is None else "failed"
