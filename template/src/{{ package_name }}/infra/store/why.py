"""Explains the state of one event for each subscriber, from what the log and the queue record.

The statements read the event's own rows, those of its scope, and a bounded part of the queue.
"""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from ...config import Settings
from ...core.units import Seconds
from ..database import Fetch, Row
from .claim import IS_PENDING, claimed_at
from .codec import ERASED, load_json_or_text
from .fates import Fate, Why, with_unfinished
from .next_decision import next_decision
from .pausing import Pause
from .stats import EXACT_COUNT_LIMIT
from .times import calendar_time, with_timezone

if TYPE_CHECKING:
    from collections.abc import Sequence

EVENT = f"""
SELECT e.seq, e.id, e.type, e.source, e.scope, {calendar_time("e.timestamp")} AS timestamp,
       {calendar_time("e.recorded_at")} AS recorded_at, e.headers,
       e.headers ? '{ERASED}' AS erased
  FROM events e
 WHERE e.id = $1
"""  # noqa: S608 - interpolates constant SQL only

# A row for each subscriber of the event's type, whether it still has a delivery or not.
DELIVERIES = f"""
SELECT s.name AS subscriber, d.seq IS NOT NULL AS exists, coalesce(d.attempts, 0) AS attempts,
       coalesce(d.fence, 0) AS fence, d.lease, {calendar_time("d.due_at")} AS due_at,
       d.due_at > 'epoch' AND d.due_at > now() AS later, s.paused_at, s.paused_by,
       {calendar_time("d.held_at")} AS held_at, {calendar_time("d.dead_at")} AS dead_at, d.error, d.traceback,
       (SELECT count(*) FROM deliveries h
         WHERE h.subscriber = s.name AND h.scope = e.scope AND h.held_at IS NOT NULL) AS held,
       (SELECT w.wake_at FROM scopes w WHERE w.subscriber = s.name AND w.scope = e.scope) AS wake_at
  FROM events e
  JOIN subscriptions s
    ON (s.types IS NULL OR e.type = ANY (s.types)) AND e.type <> ALL (s.excluded)
  LEFT JOIN deliveries d ON d.subscriber = s.name AND d.seq = e.seq
 WHERE e.seq = $1
 ORDER BY s.name
"""  # noqa: S608 - interpolates constant SQL only

# The first action, or the first `agent.dropped`, that covers the event. Each type has an index by scope and time.
SETTLED_BY = """
SELECT r.id, r.type, {recorded_at} AS recorded_at, r.payload ->> 'trigger' AS trigger,
       r.payload ->> 'reason' AS reason,
       CASE jsonb_typeof(r.payload -> 'covers')
            WHEN 'array' THEN jsonb_array_length(r.payload -> 'covers') ELSE 1 END AS covers
  FROM events e
  JOIN events r ON r.type = '{type}' AND r.scope = e.scope AND r.recorded_at >= e.recorded_at
   AND r.source = 'agent:' || $2::text AND r.payload -> 'covers' ? e.id
 WHERE e.seq = $1
 ORDER BY r.recorded_at, r.seq
 LIMIT 1
"""
ACTED = SETTLED_BY.format(type="agent.action", recorded_at=calendar_time("r.recorded_at"))
DROPPED = SETTLED_BY.format(type="agent.dropped", recorded_at=calendar_time("r.recorded_at"))

# The earlier delivery that must be handled first, by the same rule as `behind` in `scopes.state.STATE`.
BLOCKER = f"""
SELECT e.id, d.lease, d.due_at > now() AS later, {calendar_time("d.due_at")} AS due_at
  FROM deliveries d JOIN events e ON e.seq = d.seq
 WHERE d.subscriber = $1 AND d.scope = $2 AND d.seq < $3
   AND d.fence <> 0 AND d.held_at IS NULL AND d.dead_at IS NULL
   AND ($4 OR d.lease IS NOT NULL OR d.error IS NULL OR d.due_at <= now())
 ORDER BY d.seq
 LIMIT 1
"""  # noqa: S608 - interpolates constant SQL only

BEFORE = f"""
SELECT count(*) AS count
  FROM (SELECT FROM deliveries d
         WHERE d.subscriber = $1 AND d.due_at = 'epoch' AND {IS_PENDING} AND d.seq < $2
         LIMIT {EXACT_COUNT_LIMIT}) AS found
"""  # noqa: S608 - interpolates constant SQL only

WORKERS = """
SELECT count(DISTINCT application_name) AS count
  FROM pg_stat_activity
 WHERE datname = current_database() AND starts_with(application_name, $1)
"""


async def explain(fetch: Fetch, event_id: str, settings: Settings) -> Why | None:
    """Return an event and its state for each subscriber; None if it is not in the log."""
    rows = await fetch(EVENT, event_id)
    if not rows:
        return None
    event, fates = rows[0], list[Fate]()
    for delivery in await fetch(DELIVERIES, event["seq"]):
        fates.append(await _fate(fetch, event, delivery, settings))
    known = (event["id"], event["type"], event["source"], event["scope"], event["seq"])
    times = (with_timezone(event["timestamp"]), with_timezone(event["recorded_at"]))
    return Why(*known, *times, load_json_or_text(event["headers"]), fates)


async def _fate(fetch: Fetch, event: Row, delivery: Row, settings: Settings) -> Fate:
    if not delivery["exists"]:
        return await _settled(fetch, event, delivery["subscriber"])
    if delivery["dead_at"] is not None:
        return _dead(delivery)
    if delivery["held_at"] is not None:
        fate = _held(event, delivery, settings.context_max_age)
        if following := await next_decision(fetch, delivery["subscriber"], event["scope"]):
            fate = fate._replace(reason=f"{fate.reason} {following}")
    elif delivery["lease"] is not None:
        fate = _in_flight(delivery)
    else:
        fate = await _waiting(fetch, event, delivery, strict=settings.event_order == "strict")
    fate = await with_unfinished(fetch, event["scope"], event["seq"], fate)
    return fate if delivery["paused_at"] is None else _paused(delivery, fate)


def _paused(delivery: Row, fate: Fate) -> Fate:
    """Return the state of an unsettled event whose subscriber is paused."""
    pause = Pause(delivery["subscriber"], delivery["paused_at"], delivery["paused_by"])
    return fate._replace(reason=f"{fate.reason} And {pause}: nobody claims for it.")


async def _settled(fetch: Fetch, event: Row, subscriber: str) -> Fate:
    """Return how an event was settled; acks leave no record, so they are inferred from its absence."""
    acted: Sequence[Row] = await fetch(ACTED, event["seq"], subscriber)
    for row in acted or await fetch(DROPPED, event["seq"], subscriber):
        at, count = with_timezone(row["recorded_at"]), row["covers"]
        if acted:
            who = f"The trigger {row['trigger']}" if row["trigger"] else "An action, erased since,"
            reason = f"{who} acted on {_events(count)}, this one included."
            return Fate(subscriber, "acted", reason, 0, at, led_to=row["id"])
        reason = f"Dropped with {_events(count)} in all, without an action: {row['reason'] or 'the reason was erased'}."
        return Fate(subscriber, "dropped", reason, 0, at, led_to=row["id"])
    if event["erased"]:
        reason = "An operator erased it: nothing is left to decide on."
        return Fate(subscriber, "erased", reason, 0)
    reason = (
        "Settled without an action: the filter refused it, or code acked it."
        " A dead letter that was purged looks the same."
    )
    return Fate(subscriber, "filtered", reason, 0)


def _dead(delivery: Row) -> Fate:
    reason = f"Dead-lettered after {_attempts(delivery)}: retry or purge it by `dlq`."
    return _unsettled(delivery, "dead", reason, since=with_timezone(delivery["dead_at"]))


def _held(event: Row, delivery: Row, longest: Seconds) -> Fate:
    others = delivery["held"] - 1
    company = f"with {_events(others, 'other')}" if others else "alone"
    since = with_timezone(delivery["held_at"])
    if delivery["wake_at"] is not None:
        until = with_timezone(delivery["wake_at"])
        end = f"the trigger waits until {until.isoformat(timespec='seconds')}, or for another event"
    else:
        until = since + timedelta(seconds=longest)
        end = f"after {longest:g} s (CONTEXT_MAX_AGE) it is dropped"
    held = f"The memory of scope {event['scope']} holds it, {company}, until the trigger acts"
    return _unsettled(delivery, "held", f"{held}; {end}.", since=since, until=until)


def _in_flight(delivery: Row) -> Fate:
    if delivery["later"]:
        reason = "A worker handles it and renews its lease."
    else:
        reason = "Its lease expired: the worker died or hung. Another worker claims it."
    since = datetime.fromtimestamp(claimed_at(delivery["fence"]), UTC)
    until = delivery["due_at"] and with_timezone(delivery["due_at"])
    return _unsettled(delivery, "in flight", reason, since=since, until=until)


async def _waiting(fetch: Fetch, event: Row, delivery: Row, *, strict: bool) -> Fate:
    subscriber, seq = delivery["subscriber"], event["seq"]
    until = with_timezone(delivery["due_at"]) if delivery["later"] else None
    blockers = await fetch(BLOCKER, subscriber, event["scope"], seq, strict)
    if blockers:
        reason, behind = _behind(blockers[0]), blockers[0]["id"]
    else:
        reason, behind = await _due(fetch, delivery, seq), None
    return _unsettled(delivery, "waiting", reason, until=until, behind=behind)


def _behind(blocker: Row) -> str:
    now = "is in flight" if blocker["lease"] is not None else "is due"
    if blocker["lease"] is None and blocker["later"]:
        now = f"is due at {with_timezone(blocker['due_at']).isoformat(timespec='seconds')}"
    return f"An earlier event of its scope comes first: {blocker['id']}, which {now}."


async def _due(fetch: Fetch, delivery: Row, seq: int) -> str:
    if delivery["later"]:
        if delivery["error"] is not None:
            return f"It failed {_attempts(delivery)} and waits for its backoff."
        return "Deferred: its scope was busy, or what a decision needs, such as the model, was unavailable."
    [before] = await fetch(BEFORE, delivery["subscriber"], seq)
    prefix = f"claims of {delivery['subscriber'][:40]} "
    [workers] = await fetch(WORKERS, prefix)
    taking = {0: "no worker claims: start one", 1: "1 worker claims"}.get(
        workers["count"], f"{workers['count']} workers claim"
    )
    count = f"{before['count']:,}" + (" or more" if before["count"] == EXACT_COUNT_LIMIT else "")
    return f"Due now; {count} deliveries are due before it, and {taking}."


def _unsettled(
    delivery: Row,
    state: str,
    reason: str,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    behind: str | None = None,
) -> Fate:
    """Return the state of an event that has a delivery, with its attempts and its last error."""
    errors = delivery["error"], delivery["traceback"]
    known = delivery["subscriber"], state, reason, delivery["attempts"]
    return Fate(*known, since, until, *errors, behind=behind)


def _attempts(delivery: Row) -> str:
    count = delivery["attempts"]
    return f"{count} attempt" if count == 1 else f"{count} attempts"


def _events(count: int, which: str = "") -> str:
    """Return a number with the noun, as in "1 event" or "2 other events"."""
    noun = "event" if count == 1 else "events"
    return " ".join(filter(None, (str(count), which, noun)))
