"""Reads the durable form of a working memory: the deliveries that a scope holds.

An event that a decision keeps is held instead of acked: its delivery stays and can no longer be claimed. So
nothing is stored twice, and nothing assumes that events become visible in order.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import logfire

from ....core.events import Event
from ....core.units import Scope, Seconds
from ...database import Fetch, Row
from ...telemetry import counters
from ...text import storable
from ..byte_budget import read_within
from ..claim import MATCHES_TOKENS, NEW_FENCE, Token, columns, seqs
from ..codec import NewerEvent, Unreadable, decode, decode_known
from ..refusal import InvalidEvent, refuse_deep
from ..weights import EVENT
from .state import PendingDecision, ScopeState, read_state

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


class UnreadableHold(NamedTuple):
    """A held event that this code cannot read, and the reason."""

    token: Token
    id: str
    reason: str


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
