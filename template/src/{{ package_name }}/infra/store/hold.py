"""The durable form of a working memory: the deliveries that a scope holds.

An accumulated event is not acknowledged but held: its delivery leaves the claimable set and stays.
So nothing has to be saved twice, and nothing assumes that events become visible in order.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import logfire

from ...core.types import Scope, Seconds
from ..database import Fetch, Row, to_json
from ..text import storable_json
from . import counters
from .claim import Token, columns
from .codec import EVENT_COLUMNS, load_json
from .refusal import InvalidEvent, find_unstorable

# `version` moves when events leave the scope, `held` grows when they enter: together they tell
# whether a cached context is still the whole truth, at the price of one small read.
STATE = """
SELECT coalesce(s.version, 0) AS version, coalesce(s.scratch, '{}') AS scratch, s.last_action_at,
       (SELECT count(*) FROM deliveries d
         WHERE d.subscriber = $1 AND d.scope = $2 AND d.held_at IS NOT NULL) AS held
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

# The version moves, since a count that others add to meanwhile would not show what is gone.
RELEASE = """
WITH released AS (
    DELETE FROM deliveries d USING unnest($3::bigint[], $4::bigint[]) AS t (seq, fence)
     WHERE d.subscriber = $1 AND d.seq = t.seq AND d.fence = t.fence
    RETURNING d.seq
), moved AS (
    INSERT INTO scopes (subscriber, scope, version) VALUES ($1, $2, 1)
        ON CONFLICT (subscriber, scope) DO UPDATE SET version = scopes.version + 1
    RETURNING version
)
SELECT (SELECT count(*) FROM released) AS released, version FROM moved
"""

RELEASE_AGED = """
WITH released AS (
    DELETE FROM deliveries
     WHERE subscriber = $1 AND held_at < now() - $2::float8 * interval '1 second'
    RETURNING scope
), counted AS (
    SELECT scope, count(*) AS events FROM released GROUP BY scope
), moved AS (
    INSERT INTO scopes (subscriber, scope, version) SELECT $1, scope, 1 FROM counted
        ON CONFLICT (subscriber, scope) DO UPDATE SET version = scopes.version + 1
)
SELECT coalesce(sum(events), 0)::bigint AS events FROM counted
"""


class ScopeMoved(Exception):
    """Another worker changed the scope meanwhile: rebuild its context and decide again."""


class ScopeState(NamedTuple):
    """What tells whether a context is current, and what it cannot derive from its events."""

    version: int
    held: int
    scratch: dict[str, Any]
    last_action_at: datetime | None


async def read_state(fetch: Fetch, subscriber: str, scope: Scope) -> ScopeState:
    """Return the state of a scope, which need not exist yet."""
    row = (await fetch(STATE, subscriber, scope))[0]
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


async def read_held(fetch: Fetch, subscriber: str, scope: Scope) -> Sequence[Row]:
    """Return the rows of the events that a scope holds, each with its fence."""
    return await fetch(HELD, subscriber, scope)


async def read_covered(fetch: Fetch, scope: Scope, seconds: Seconds) -> Sequence[Row]:
    """Return the rows of the recent events that actions of this scope answered."""
    return await fetch(COVERED, scope, seconds)


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


async def release(
    fetch: Fetch, subscriber: str, scope: Scope, tokens: Iterable[Token]
) -> tuple[int, int]:
    """Let go of events that a scope holds; return how many were there, and the scope's version."""
    row = (await fetch(RELEASE, subscriber, scope, *columns(tokens)))[0]
    counters.handled.add(row["released"])
    return row["released"], row["version"]


async def release_aged(fetch: Fetch, subscriber: str, age: Seconds) -> int:
    """Let go of what has been held for longer than `age`, in any scope; return how many."""
    released = (await fetch(RELEASE_AGED, subscriber, age))[0]["events"]
    counters.handled.add(released)
    return released
