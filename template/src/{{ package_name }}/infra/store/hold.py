"""Reads the durable form of a working memory: the deliveries that a scope holds.

An event that a decision keeps is held instead of acked: its delivery stays and can no longer be claimed. So
nothing is stored twice, and nothing assumes that events become visible in order.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, cast

import logfire

from ...core.events import Event
from ...core.units import Scope, Seconds
from ..database import Fetch, Row, to_json
from ..text import storable, storable_json
from . import counters
from .byte_budget import read_within
from .claim import MATCHES_TOKENS, NEW_FENCE, Token, columns, seqs
from .codec import NewerEvent, Unreadable, decode, decode_known, load_json
from .refusal import InvalidEvent, find_unstorable, refuse_deep
from .weights import EVENT

# `version` changes when events leave the scope, `held` when they enter it. Together they show whether a cached
# context is current, at the price of one small read.
#
# `behind` finds an earlier delivery that was claimed once and is not settled: leased, with an expired lease,
# released or deferred. It must be handled first. In relaxed order, one that waits for its retry or for newer
# code, and so has an error, does not count. One that was never claimed cannot be earlier, since a claim takes
# none after it. For a block of several deliveries there is none between them either.
#
# `ours` counts the deliveries of the block whose tokens are valid.
STATE = """
SELECT coalesce(s.version, 0) AS version, coalesce(s.scratch, '{}') AS scratch, s.last_action_at,
       (SELECT count(*) FROM deliveries d
         WHERE d.subscriber = $1 AND d.scope = $2 AND d.held_at IS NOT NULL) AS held,
       (SELECT greatest(extract(epoch FROM d.due_at - now()), 0)::float8 FROM deliveries d
         WHERE d.subscriber = $1 AND d.scope = $2
           AND d.seq < ($3::bigint[])[cardinality($3::bigint[])] AND d.seq <> ALL ($3::bigint[])
           AND d.fence <> 0 AND d.held_at IS NULL AND d.dead_at IS NULL
           AND ($5 OR d.lease IS NOT NULL OR d.error IS NULL OR d.due_at <= now())
         ORDER BY d.seq
         LIMIT 1) AS behind,
       (SELECT count(*) FROM deliveries d
         WHERE d.subscriber = $1 AND d.seq = ANY ($3::bigint[])
           AND d.fence = ($4::bigint[])[width_bucket(d.seq, $3::bigint[])]) AS ours
  FROM (VALUES (1)) AS one
  LEFT JOIN scopes s ON s.subscriber = $1 AND s.scope = $2
"""

HELD = """
SELECT d.seq, d.fence
  FROM deliveries d
 WHERE d.subscriber = $1 AND d.scope = $2 AND d.held_at IS NOT NULL
 ORDER BY d.seq DESC
"""

# The events that recent actions cover, which passed the filters and were acted on.
COVERED = """
SELECT DISTINCT e.seq
  FROM events a
 CROSS JOIN LATERAL jsonb_array_elements_text(
            CASE jsonb_typeof(a.payload -> 'covers') WHEN 'array' THEN a.payload -> 'covers'
            ELSE '[]' END) AS c (id)
  JOIN events e ON e.id = c.id
 WHERE a.scope = $1 AND a.type = 'agent.action'
   AND a.source = $3
   AND a.recorded_at > now() - $2::float8 * interval '1 second'
   AND e.recorded_at > now() - $2::float8 * interval '1 second'
 ORDER BY e.seq DESC
 LIMIT $4
"""

# No decision may settle an event that it cannot see. So the scope gets a new version first, as with an
# action, and the deliveries new fences: a cached context with these events can no longer act.
DEAD_LETTER = f"""
WITH moved AS (
    INSERT INTO scopes (subscriber, scope, version) VALUES ($1, $5, 1)
        ON CONFLICT (subscriber, scope) DO UPDATE SET version = scopes.version + 1
    RETURNING version
)
UPDATE deliveries d
   SET held_at = NULL, dead_at = now(), fence = {NEW_FENCE}, traceback = NULL,
       error = ($4::text[])[width_bucket(d.seq, $2::bigint[])]
  FROM (SELECT count(*) FROM moved) AS once
 WHERE {MATCHES_TOKENS}
RETURNING d.seq
"""  # noqa: S608 - interpolates constant SQL only


class ScopeMoved(Exception):
    """Another worker changed the scope meanwhile. Rebuild its context and decide again."""


class EarlierEventPending(Exception):
    """An earlier delivery of the scope comes first. Release this one, which keeps its place.

    `seconds` is how long until the earlier one is due; 0 if it is leased or due now.
    """

    def __init__(self, scope: Scope, seconds: Seconds) -> None:
        super().__init__(f"scope {scope!r} has an earlier event that is not handled yet")
        self.scope = scope
        self.seconds = seconds


class UnreadableHold(NamedTuple):
    """A held event that this code cannot read, and the reason."""

    token: Token
    id: str
    reason: str


class ScopeState(NamedTuple):
    """A scope's version and number of held events, and what its context cannot derive from its events."""

    version: int
    held: int
    scratch: dict[str, Any]
    last_action_at: datetime | None


class Held(NamedTuple):
    """A scope's state and held events, from one read."""

    state: ScopeState
    events: list[Event]
    tokens: dict[int, Token]
    """The tokens of `events`, by `seq`: a decision may settle only these."""
    newer: int
    """How many held events have a version that only newer code supports."""
    unreadable: list[UnreadableHold]
    weight: int
    """The estimated bytes of memory that the events take."""
    excess: list[Token]
    """The tokens of the oldest, which were not read because of the limit of bytes."""


class PendingDecision(NamedTuple):
    """The deliveries that a decision is about to handle; no earlier one of the scope may be unsettled."""

    scope: Scope
    tokens: Sequence[Token]
    """The tokens of the deliveries, by `seq`; empty if the order does not matter."""
    strict: bool
    """Whether an earlier delivery that waits for its retry comes first (EVENT_ORDER=strict)."""

    @property
    def last(self) -> int:
        """The `seq` of the last delivery; 0 if there is none."""
        return max((token.seq for token in self.tokens), default=0)


async def read_state(fetch: Fetch, subscriber: str, pending: PendingDecision) -> ScopeState:
    """Return the state of a scope; one without a row has version 0.

    Raises:
        ScopeMoved: another worker claimed one of the deliveries meanwhile.
        EarlierEventPending: an earlier delivery of the scope comes first.
    """
    scope = pending.scope
    row = (await fetch(STATE, subscriber, scope, *columns(pending.tokens), pending.strict))[0]
    if row["ours"] < len(pending.tokens):
        raise ScopeMoved(f"another worker has an event of scope {scope!r} by now")
    if row["behind"] is not None:
        raise EarlierEventPending(scope, row["behind"])
    notes = _read_notes(scope, row["scratch"])
    return ScopeState(row["version"], row["held"], notes, row["last_action_at"])


def _read_notes(scope: Scope, scratch: Any) -> dict[str, Any]:
    try:
        notes = cast("object", load_json(scratch))
        if isinstance(notes, dict):
            return cast("dict[str, Any]", notes)
        reason = "they are not an object"
    except ValueError as error:  # earlier releases stored notes that are nested too deeply
        reason = str(error)
    logfire.error(
        "The notes of {scope} cannot be read and start empty: {error}", scope=scope, error=reason
    )
    return {}


def write_notes(scratch: Mapping[str, Any]) -> str:
    """Return a scope's notes as JSON, after reading it back.

    Raises:
        InvalidEvent: the notes cannot be stored as JSON or read back.
    """
    notes = storable_json(scratch)
    problem = find_unstorable(notes, "scratch")
    if problem is not None:
        raise problem
    try:
        written = to_json(notes)
        load_json(written)
    except ValueError as error:
        raise InvalidEvent(
            f"scratch: it is not valid JSON ({error}): keep flat values in it"
        ) from error
    return written


async def read_held(
    fetch: Fetch, subscriber: str, pending: PendingDecision, max_depth: int, max_bytes: int
) -> Held:
    """Return a scope's state and its newest held events, with their tokens, in at most `max_bytes` of memory.

    A held event that this code cannot read is dead-lettered, since no decision could see it. So is one at
    `max_depth`, which earlier releases accepted, since no action could follow it. One of a newer version stays
    held for a worker with newer code.

    Raises:
        ScopeMoved: another worker claimed one of the deliveries meanwhile.
        EarlierEventPending: an earlier delivery of the scope comes first.
    """
    scope = pending.scope
    while True:
        state = await read_state(fetch, subscriber, pending)
        rows = await fetch(HELD, subscriber, scope)
        tokens = {row["seq"]: Token(row["seq"], row["fence"]) for row in rows}
        chunk = await read_within(fetch, list(tokens), max_bytes, memory=max_bytes)
        held = _decode(chunk.rows, tokens, state, max_depth)
        held = held._replace(excess=list(tokens.values())[chunk.rows_read :])
        if not held.unreadable:
            return held
        await _dead_letter(fetch, subscriber, scope, held.unreadable)


async def read_covered(
    fetch: Fetch, subscriber: str, scope: Scope, seconds: Seconds, max_bytes: int
) -> list[Event]:
    """Return the newest events that this subscriber's actions covered in the last `seconds`.

    They take at most `max_bytes` of memory.
    """
    if max_bytes <= 0:
        return []
    keys = await fetch(COVERED, scope, seconds, f"agent:{subscriber}", max_bytes // EVENT + 1)
    chunk = await read_within(fetch, [row["seq"] for row in keys], max_bytes, memory=max_bytes)
    return [event for row in chunk.rows if (event := decode_known(row))]


def refuse_unanswerable(event: Event, max_depth: int) -> None:
    """Refuse an event at the limit of depth: no action may follow it, so it would fail every decision.

    Raises:
        InvalidEvent: its chain of causes has `max_depth` events.
    """
    if event.meta.depth >= max_depth:
        raise refuse_deep(event, max_depth)


def _decode(
    rows: Sequence[Row], tokens: Mapping[int, Token], state: ScopeState, max_depth: int
) -> Held:
    held = Held(state, [], {}, 0, [], 0, [])
    for row in rows:
        token = tokens[row["seq"]]
        try:
            event = decode(row)
            refuse_unanswerable(event, max_depth)
            held.events.append(event)
            held.tokens[token.seq] = token
            held = held._replace(weight=held.weight + event.stored_weight)
        except NewerEvent as error:
            logfire.warn("Held for a worker with newer code: {reason}", reason=str(error))
            held = held._replace(newer=held.newer + 1)
        except Unreadable as error:
            reason = f"it is not a valid {row['type']} event any more: {error}"
            held.unreadable.append(UnreadableHold(token, row["id"], reason))
        except InvalidEvent as error:
            held.unreadable.append(UnreadableHold(token, row["id"], str(error)))
    return held


async def _dead_letter(
    fetch: Fetch, subscriber: str, scope: Scope, unreadable: list[UnreadableHold]
) -> None:
    """Dead-letter held events that cannot be read, except those that another worker settled meanwhile."""
    in_order = sorted(unreadable)
    reasons = [storable(each.reason) for each in in_order]
    tokens = columns(each.token for each in in_order)
    died = seqs(await fetch(DEAD_LETTER, subscriber, *tokens, reasons, scope))
    counters.dead.add(len(died))
    for each in in_order:
        if each.token.seq in died:
            logfire.error(
                "Held event {id} was dead-lettered: {reason}", id=each.id, reason=each.reason
            )
