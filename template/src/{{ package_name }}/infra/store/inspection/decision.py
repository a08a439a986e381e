"""Reads one decision: its events, the finished units of its journal, and its action, if it acted."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from ....core.events import ActionEvent
from ....core.units import Scope
from ...database import Fetch, Row
from ..byte_budget import read_within
from ..codec import EVENT_COLUMNS, Stored, decode_any
from ..journal import UNFINISHED
from ..times import with_timezone
from .covers import covers_of
from .units import Unit, decode_unit

MAX_COVERED = 1_000
"""The most covered events that are read."""
MAX_UNITS = 500
"""The most units that are read."""

ACTION = f"""
SELECT {EVENT_COLUMNS} FROM events e WHERE e.id = $1 AND e.type = 'agent.action'
"""  # noqa: S608 - interpolates constant SQL only

# Whether its event is a dead letter does not matter here: a retry of that continues it.
PIN = "SELECT p.scope, p.begun_at, p.seq, p.seqs FROM decisions p WHERE p.subscriber = $1 AND p.action_id = $2"

IS_PINNED = (
    f"SELECT EXISTS (SELECT 1 {UNFINISHED} WHERE p.subscriber = $1 AND p.action_id = $2) AS pinned"
)

ATTEMPTS = "SELECT max(d.attempts)::int AS attempts FROM deliveries d WHERE d.subscriber = $1 AND d.seq = $2"

SEQS = "SELECT e.seq, e.id FROM events e WHERE e.id = ANY ($1::text[])"

# In the order of recording; those that exceed the budget of bytes have a size only.
UNITS = f"""
SELECT j.scope, j.recorded_at, j.size, j.total <= $2 OR j.place = 1 AS fits,
       CASE WHEN j.total <= $2 OR j.place = 1 THEN j.entry END AS entry,
       CASE WHEN j.total <= $2 OR j.place = 1 THEN j.asked END AS asked
  FROM (SELECT u.*, sum(u.size) OVER w AS total, row_number() OVER w AS place
          FROM (SELECT l.scope, l.recorded_at, l.key, l.nth, l.entry, l.asked,
                       octet_length(l.entry) + coalesce(octet_length(l.asked), 0) AS size
                  FROM journal l
                 WHERE l.action_id = $1
                 ORDER BY l.recorded_at, l.key, l.nth
                 LIMIT {MAX_UNITS}) AS u
        WINDOW w AS (ORDER BY u.recorded_at, u.key, u.nth)) AS j
 ORDER BY j.place
"""  # noqa: S608 - interpolates constant SQL only


class DecisionView(NamedTuple):
    """A decision, finished or not."""

    action_id: str
    action: Stored | None
    """Its action; None while it is unfinished, or if it ended without one."""
    scope: Scope
    begun_at: datetime | None
    """The time that its trigger reads; None if only its journal is left, or the action is of an older release."""
    covers: list[Stored | str]
    """The events that it decides on, by `seq`; the id of one that is no longer in the log, at the end."""
    covered: int
    """The number of events that it decides on; at most `MAX_COVERED` are in `covers`, fewer if they are large."""
    units: list[Unit]
    """Its finished model requests and tool calls, in the order of recording; they are deleted DECISION_RETENTION
    seconds after the action."""
    attempts: int | None
    """How often the event in flight was claimed, 1 at the first try; None for actions of older releases."""
    pinned: bool
    """Whether it is unfinished, so that a retry goes on with it."""


async def read_decision(
    fetch: Fetch, subscriber: str, action_id: str, max_bytes: int
) -> DecisionView | None:
    """Return a decision; None if the log has no such action, and the journal nothing of it."""
    if "\x00" in action_id:
        return None
    actions = await fetch(ACTION, action_id)
    pins = await fetch(PIN, subscriber, action_id)
    journal = await fetch(UNITS, action_id, max_bytes)
    units = [decode_unit(row) for row in journal]
    if actions:
        return await _finished(fetch, action_id, actions[0], units, max_bytes)
    if pins:
        return await _unfinished(fetch, subscriber, action_id, pins[0], units, max_bytes)
    if not units:
        return None
    scope = journal[0]["scope"]
    return DecisionView(action_id, None, scope, None, [], 0, units, None, False)


async def _finished(
    fetch: Fetch, action_id: str, row: Row, units: list[Unit], max_bytes: int
) -> DecisionView:
    action, ids = decode_any(row), covers_of(row)
    shown = ids[-MAX_COVERED:]
    rows = await fetch(SEQS, shown)
    covers = await _read(fetch, [found["seq"] for found in rows], max_bytes)
    known = {found["id"] for found in rows}
    covers += [each for each in shown if each not in known]
    finished = isinstance(action, ActionEvent)
    begun_at = action.decided_at if finished else None
    attempts = action.attempts if finished else None
    return DecisionView(
        action_id,
        action,
        row["scope"],
        begun_at,
        covers,
        len(ids),
        units,
        attempts,
        False,
    )


async def _unfinished(
    fetch: Fetch, subscriber: str, action_id: str, pin: Row, units: list[Unit], max_bytes: int
) -> DecisionView:
    covers = await _read(fetch, pin["seqs"][-MAX_COVERED:], max_bytes)
    [tried] = await fetch(ATTEMPTS, subscriber, pin["seq"])
    [now] = await fetch(IS_PINNED, subscriber, action_id)
    begun_at, count = with_timezone(pin["begun_at"]), len(pin["seqs"])
    return DecisionView(
        action_id,
        None,
        pin["scope"],
        begun_at,
        covers,
        count,
        units,
        tried["attempts"],
        now["pinned"],
    )


async def _read(fetch: Fetch, seqs: Sequence[int], max_bytes: int) -> list[Stored | str]:
    """Return the events with these `seq`s, in their order, as far as the budget reaches."""
    chunk = await read_within(fetch, sorted(seqs), max_bytes)
    return [decode_any(row) for row in chunk.rows]
