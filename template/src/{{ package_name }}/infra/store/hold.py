"""The durable form of a working memory: the deliveries that a scope holds.

An accumulated event is not acknowledged but held: its delivery leaves the claimable set and stays.
So nothing has to be saved twice, and nothing assumes that events become visible in order.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import logfire

from ...core.events import Event
from ...core.types import Scope, Seconds
from ..database import Fetch, Row, to_json
from ..text import storable, storable_json
from . import counters
from .claim import NEW_FENCE, OURS, Token, columns, seqs
from .codec import EVENT_COLUMNS, NewerEvent, Unreadable, decode, decode_known, load_json
from .refusal import InvalidEvent, find_unstorable

# `version` moves when events leave the scope, `held` grows when they enter: together they tell
# whether a cached context is still the whole truth, at the price of one small read.
#
# An earlier delivery that was claimed once and is not settled keeps its scope waiting: leased, with
# an expired lease, released or deferred. Under relaxed order one that waits for its retry does not;
# neither does what waits for newer code, which has a reason as well. One that was never claimed cannot
# be earlier than this one, since a claim takes none that comes behind it.
STATE = """
SELECT coalesce(s.version, 0) AS version, coalesce(s.scratch, '{}') AS scratch, s.last_action_at,
       (SELECT count(*) FROM deliveries d
         WHERE d.subscriber = $1 AND d.scope = $2 AND d.held_at IS NOT NULL) AS held,
       (SELECT greatest(extract(epoch FROM d.due_at - now()), 0)::float8 FROM deliveries d
         WHERE d.subscriber = $1 AND d.scope = $2 AND d.seq < $3
           AND d.fence <> 0 AND d.held_at IS NULL AND d.dead_at IS NULL
           AND ($4 OR d.lease IS NOT NULL OR d.error IS NULL OR d.due_at <= now())
         ORDER BY d.seq
         LIMIT 1) AS behind
  FROM (VALUES (1)) AS one
  LEFT JOIN scopes s ON s.subscriber = $1 AND s.scope = $2
"""

HELD = f"""
SELECT {EVENT_COLUMNS}, d.fence
  FROM deliveries d JOIN events e ON e.seq = d.seq
 WHERE d.subscriber = $1 AND d.scope = $2 AND d.held_at IS NOT NULL
"""  # noqa: S608 - no value goes in, only the list of columns

# What passed the filters and was acted on is known from the actions, which name what they cover.
COVERED = f"""
SELECT {EVENT_COLUMNS}
  FROM events a
 CROSS JOIN LATERAL jsonb_array_elements_text(
            CASE jsonb_typeof(a.payload -> 'covers') WHEN 'array' THEN a.payload -> 'covers'
            ELSE '[]' END) AS c (id)
  JOIN events e ON e.id = c.id
 WHERE a.scope = $1 AND a.type = 'agent.action'
   AND a.source = $3
   AND a.recorded_at > now() - $2::float8 * interval '1 second'
   AND e.recorded_at > now() - $2::float8 * interval '1 second'
"""  # noqa: S608 - no value goes in, only the list of columns

# Compare-and-set: whoever lost the scope's lock meanwhile finds another version and may not act.
MOVE = """
INSERT INTO scopes (subscriber, scope, version, scratch, last_action_at)
VALUES ($1, $2, 1, $4::text::jsonb, now())
    ON CONFLICT (subscriber, scope) DO UPDATE
   SET version = scopes.version + 1, scratch = excluded.scratch, last_action_at = now()
 WHERE scopes.version = $3::bigint
RETURNING version, last_action_at
"""

# What no decision can see must not be settled by one. The scope's version moves first, as with an
# action: a cached context that still shows these events may not act, and a new fence voids its tokens.
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
 WHERE {OURS}
RETURNING d.seq
"""  # noqa: S608 - no value goes in, only conditions and the expression of a fence


class ScopeMoved(Exception):
    """Another worker changed the scope meanwhile: rebuild its context and decide again."""


class ScopeBehind(Exception):
    """An earlier delivery of the scope comes first: this one goes back and keeps its place.

    `seconds` says when the earlier one falls due; 0 if somebody has it, or may take it now.
    """

    def __init__(self, scope: Scope, seconds: Seconds) -> None:
        super().__init__(f"scope {scope!r} has an earlier event that is not handled yet")
        self.scope = scope
        self.seconds = seconds


class UnreadableHold(NamedTuple):
    """A held event that this code cannot read, and why."""

    token: Token
    id: str
    reason: str


class ScopeState(NamedTuple):
    """What tells whether a context is current, and what it cannot derive from its events."""

    version: int
    held: int
    scratch: dict[str, Any]
    last_action_at: datetime | None


class Held(NamedTuple):
    """What a scope holds, as one reading of the database has it."""

    state: ScopeState
    events: list[Event]
    tokens: dict[int, Token]
    """Of the events, by `seq`: nothing else may be settled by a decision on them."""
    newer: int
    """How many more there are, of versions that only newer code knows."""
    unreadable: list[UnreadableHold]


class Place(NamedTuple):
    """What is about to be decided on in a scope: nothing that is earlier may be left."""

    scope: Scope
    seq: int | None
    """Of the first delivery; None if the order does not matter."""
    strict: bool
    """Whether an earlier delivery counts that waits for its retry."""


async def read_state(fetch: Fetch, subscriber: str, place: Place) -> ScopeState:
    """Return the state of a scope, which need not exist yet.

    Raises:
        ScopeBehind: an earlier delivery of the scope comes first.
    """
    scope = place.scope
    row = (await fetch(STATE, subscriber, *place))[0]
    if row["behind"] is not None:
        raise ScopeBehind(scope, row["behind"])
    notes = _read_notes(scope, row["scratch"])
    return ScopeState(row["version"], row["held"], notes, row["last_action_at"])


def _read_notes(scope: Scope, scratch: Any) -> dict[str, Any]:
    try:
        return load_json(scratch)
    except ValueError as error:  # earlier code stored notes that are nested too deeply
        logfire.error(
            "The notes of {scope} cannot be read and start empty: {error}",
            scope=scope,
            error=str(error),
        )
        return {}


def write_notes(scratch: Mapping[str, Any]) -> str:
    """Return a scope's notes as JSON that the next worker can read.

    Raises:
        InvalidEvent: they have a number, a nesting or a value that JSON's readers refuse.
    """
    notes = storable_json(scratch)
    problem = find_unstorable(notes, "scratch")
    if problem is not None:
        raise problem
    try:
        written = to_json(notes)
        load_json(written)
    except ValueError as error:
        raise InvalidEvent(f"scratch: it is no JSON ({error}): keep flat values in it") from error
    return written


async def read_held(fetch: Fetch, subscriber: str, place: Place) -> Held:
    """Return a scope's state and the events that it holds, each with the token that settles it.

    A held event that this code cannot read is dead-lettered with the reason: no decision could see
    it. One of a newer version stays as it is, for a worker that knows the version.

    Raises:
        ScopeBehind: an earlier delivery of the scope comes first.
    """
    scope = place.scope
    while True:
        state = await read_state(fetch, subscriber, place)
        held = _decode(await fetch(HELD, subscriber, scope), state)
        if not held.unreadable:
            return held
        await _dead_letter(fetch, subscriber, scope, held.unreadable)


async def read_covered(
    fetch: Fetch, subscriber: str, scope: Scope, seconds: Seconds
) -> list[Event]:
    """Return the recent events that actions of this subscriber and scope answered."""
    rows = await fetch(COVERED, scope, seconds, f"agent:{subscriber}")
    return [event for row in rows if (event := decode_known(row))]


async def move(
    fetch: Fetch, subscriber: str, scope: Scope, version: int, scratch: dict[str, Any]
) -> Row:
    """Advance a scope from `version` and return its new row.

    Raises:
        ScopeMoved: it is no longer at that version.
    """
    rows = await fetch(MOVE, subscriber, scope, version, to_json(scratch))
    if not rows or rows[0]["version"] != version + 1:
        raise ScopeMoved(f"scope {scope!r} was changed by another worker")
    return rows[0]


def _decode(rows: Sequence[Row], state: ScopeState) -> Held:
    held = Held(state, [], {}, 0, [])
    for row in rows:
        token = Token(row["seq"], row["fence"])
        try:
            held.events.append(decode(row))
            held.tokens[token.seq] = token
        except NewerEvent as error:
            logfire.warn("Held for a worker with newer code: {reason}", reason=str(error))
            held = held._replace(newer=held.newer + 1)
        except Unreadable as error:
            reason = f"it is not a valid {row['type']} event any more: {error}"
            held.unreadable.append(UnreadableHold(token, row["id"], reason))
    return held


async def _dead_letter(
    fetch: Fetch, subscriber: str, scope: Scope, unreadable: list[UnreadableHold]
) -> None:
    """Give up held events that cannot be read; what another worker settled meanwhile is left alone."""
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
