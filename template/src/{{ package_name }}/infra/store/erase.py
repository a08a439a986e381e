"""Erases events: overwrites what they say with a tombstone, in the log and everywhere that the store repeats it.

A tombstone keeps id, type, scope, times and causes, so chains of causes and the ids that producers repeat stay known. The
key `erased` of its headers marks it: headers are written by this service only, so no client can forge it.

The log is scanned in order of `seq`. An action has a higher `seq` than the events that it covers, so one pass also finds
the actions that repeat what was erased, and the actions that cover those.
"""

import json
from collections.abc import AsyncGenerator, Mapping
from typing import NamedTuple, cast

import asyncpg
from pydantic_core import to_json

from ...core.units import Scope
from .codec import COLUMNS, ERASED
from .connections import StoreConnections
from .refusal import InvalidEvent, find_unstorable
from .scopes.state import ERASURE_STEP, NO_NOTES

BATCH_SIZE = 2_000  # events scanned in one transaction, so that none blocks others for long
MAX_TRIES = 5  # of a transaction that deadlocks with workers

IS_ERASED = f"headers ? '{ERASED}'"
REPEATS = "('agent.action', 'agent.dropped')"
"""The types whose payload repeats what the covered events say."""


def _matches(event: str) -> str:
    return (
        f"($1::text IS NOT NULL AND {event}.scope = $1"
        f" OR $2::text IS NOT NULL AND {event}.payload @> $2::text::jsonb)"
    )


NAMES_SCOPE = "e.type = 'operator.action' AND e.payload #>> '{details,filter,scope}' = $1"

# `ours`: the selection. `repeats`: actions and drops that cover an event of the selection, or an erased one. Records of
# operators hold no payload, and are the trace of what was done, so they stay; `names` are those that name the scope.
LOOK = f"""
SELECT e.seq, e.scope, e.type <> 'operator.action' AND {_matches("e")} AS ours,
       e.type IN {REPEATS} AND EXISTS (
           SELECT FROM jsonb_array_elements_text(
                  CASE jsonb_typeof(e.payload -> 'covers') WHEN 'array' THEN e.payload -> 'covers'
                  ELSE '[]' END) AS c (id)
             JOIN events k ON k.id = c.id
            WHERE k.{IS_ERASED} OR {_matches("k")}) AS repeats,
       e.{IS_ERASED} AS erased, $1::text IS NOT NULL AND {NAMES_SCOPE} AS names
  FROM (SELECT * FROM events WHERE seq > $3 ORDER BY seq LIMIT $4) AS e
"""  # noqa: S608 - interpolates constant SQL only

FIND = f"""
SELECT max(w.seq) AS through,
       coalesce(array_agg(w.seq ORDER BY w.seq) FILTER (WHERE w.wanted), ARRAY[]::bigint[]) AS seqs,
       coalesce(array_agg(w.seq) FILTER (WHERE w.names), ARRAY[]::bigint[]) AS naming,
       coalesce(array_agg(DISTINCT w.scope) FILTER (WHERE w.wanted), ARRAY[]::text[]) AS scopes
  FROM (SELECT f.*, NOT f.erased AND (f.ours OR f.repeats) AS wanted FROM ({LOOK}) AS f) AS w
"""  # noqa: S608 - interpolates constant SQL only

# Without its deliveries, no decision can act on an event. A decision sees all of its scope, so its errors and notes may
# repeat any event of it, and so may its journal: those of the scopes are erased, too. The new versions invalidate cached contexts, and refuse
# the notes of decisions under way. Rows are locked in the order in which workers settle them. Arrays are unnested, since
# `= ANY` in a generic plan compares each row with each element.
FORGET = f"""
WITH known AS (
    SELECT d.subscriber, d.seq, d.scope, d.seq IN (SELECT unnest($1::bigint[])) AS ours
      FROM deliveries d
     WHERE d.seq IN (SELECT unnest($1::bigint[]))
        OR (d.error IS NOT NULL OR d.traceback IS NOT NULL) AND d.scope IN (SELECT unnest($2::text[]))
     ORDER BY d.seq
       FOR UPDATE
), gone AS (
    DELETE FROM deliveries d USING known k
     WHERE k.ours AND d.seq = k.seq AND d.subscriber = k.subscriber
), quoted AS (
    UPDATE deliveries d SET error = CASE WHEN d.error IS NOT NULL THEN 'erased' END, traceback = NULL
      FROM known k
     WHERE NOT k.ours AND d.seq = k.seq AND d.subscriber = k.subscriber
), remembering AS (
    SELECT subscriber, scope FROM known WHERE ours
     UNION
    SELECT s.subscriber, s.scope FROM scopes s WHERE s.scope IN (SELECT unnest($2::text[]))
), unpinned AS (DELETE FROM decisions WHERE scope IN (SELECT unnest($2::text[]))
), unrecorded AS (DELETE FROM journal WHERE scope IN (SELECT unnest($2::text[]))
)
INSERT INTO scopes (subscriber, scope, version)
SELECT subscriber, scope, {ERASURE_STEP} FROM remembering ORDER BY subscriber, scope
    ON CONFLICT (subscriber, scope) DO UPDATE
   SET version = scopes.version + {ERASURE_STEP}, scratch = '{NO_NOTES}',
       last_action_at = CASE WHEN $3::boolean THEN NULL ELSE scopes.last_action_at END
"""  # noqa: S608 - interpolates constant SQL only

# Overwrites the events. Their scopes get new versions again, since a context may have been rebuilt meanwhile.
ERASE = f"""
WITH erased AS (
    UPDATE events e
       SET payload = CASE WHEN e.type IN {REPEATS} AND e.payload ? 'covers'
                          THEN jsonb_build_object('covers', e.payload -> 'covers') ELSE jsonb_build_object() END,
           headers = jsonb_strip_nulls(jsonb_build_object(
               'trace_id', e.headers -> 'trace_id', 'correlation_id', e.headers -> 'correlation_id',
               'causation_id', e.headers -> 'causation_id', 'depth', e.headers -> 'depth',
               'replayed_from', e.headers -> 'replayed_from', '{ERASED}', now())),
           source = CASE WHEN e.type IN {REPEATS} THEN e.source ELSE '{ERASED}' END
     WHERE e.seq IN (SELECT unnest($1::bigint[])) AND NOT e.{IS_ERASED}
    RETURNING e.scope
), theirs AS (
    SELECT s.subscriber, s.scope FROM scopes s
     WHERE s.scope IN (SELECT scope FROM erased)
     ORDER BY s.subscriber, s.scope
       FOR UPDATE
), moved AS (
    UPDATE scopes s SET version = s.version + {ERASURE_STEP}, scratch = '{NO_NOTES}'
      FROM theirs t
     WHERE s.subscriber = t.subscriber AND s.scope = t.scope
), unpinned AS (DELETE FROM decisions WHERE scope IN (SELECT scope FROM erased)
), unrecorded AS (DELETE FROM journal WHERE scope IN (SELECT scope FROM erased)
)
SELECT count(*) AS count FROM erased
"""  # noqa: S608 - interpolates constant SQL only


# Overwrites a scope that records of operators name as the condition of what they changed.
UNNAME = f"""
UPDATE events SET payload = jsonb_set(payload, ARRAY['details', 'filter', 'scope'], '"{ERASED}"')
 WHERE seq IN (SELECT unnest($1::bigint[]))
"""  # noqa: S608 - interpolates constant SQL only


class Selection(NamedTuple):
    """The events to erase: those of one scope, or those whose payload contains some JSON."""

    scope: Scope | None = None
    where: str | None = None
    """A JSON object; a payload contains it if it has these fields with these values (PostgreSQL's `@>`)."""

    @property
    def keys(self) -> list[str]:
        """The names of the fields in `where`, without their values."""
        return list(json.loads(self.where)) if self.where else []


def select(scope: Scope | None, where: Mapping[str, object] | None) -> Selection:
    """Return the selection of a scope, or of the payloads that contain `where`.

    Raises:
        InvalidEvent: both or neither are given, or `where` can match no payload, or all of them.
    """
    if (scope is None) == (where is None):
        raise InvalidEvent("give either a scope or where, not both")
    if where is None:
        if "\x00" in str(scope):
            raise InvalidEvent("scope: it contains NUL, so no event can have it")
        return Selection(scope=scope)
    if not isinstance(cast("object", where), Mapping):
        raise InvalidEvent(_NO_OBJECT)
    if not where:
        raise InvalidEvent("where: an empty object matches every event: name a field and its value")
    if columns := [name for name in where if name in COLUMNS]:
        raise InvalidEvent(
            f"where: {columns[0]!r} is not part of the payload: name a field of the event's type"
        )
    if problem := find_unstorable(where, "where"):
        raise problem
    return Selection(where=to_json(where).decode())


_NO_OBJECT = """where: it is not a JSON object: write fields and values, as in {"customer": "42"}"""


def parse_where(text: str) -> Mapping[str, object]:
    """Return the object of a JSON text.

    Raises:
        InvalidEvent: the text is not a JSON object.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidEvent(_NO_OBJECT) from error
    if not isinstance(found, dict):
        raise InvalidEvent(_NO_OBJECT)
    return cast("dict[str, object]", found)


async def erase(connections: StoreConnections, what: Selection) -> AsyncGenerator[int]:
    """Overwrite the selected events and what repeats them; yield the number of events of each transaction.

    It may be repeated, and must be if it was interrupted or if such events were accepted meanwhile.
    """
    after = 0
    while True:
        async with connections.indexed_transaction() as fetch:
            [row] = await fetch(FIND, *what, after, BATCH_SIZE)
        if row["through"] is None:
            break
        if row["naming"]:
            await _run(connections, UNNAME, row["naming"])
        if not row["seqs"]:
            after = row["through"]
            continue
        # The same part is searched again, for an action that committed before its deliveries were deleted.
        await _run(connections, FORGET, row["seqs"], row["scopes"], what.scope is not None)
        yield await _run(connections, ERASE, row["seqs"])
    if what.scope is not None:  # its notes may repeat events that were pruned
        await _run(connections, FORGET, [], [what.scope], True)


async def _run(connections: StoreConnections, statement: str, *args: object) -> int:
    """Run a statement in a transaction of its own, again after a deadlock; return its count, if it has one."""
    for left in reversed(range(MAX_TRIES)):
        try:
            async with connections.transaction() as fetch:
                rows = await fetch(statement, *args)
                return rows[0]["count"] if rows else 0
        except asyncpg.DeadlockDetectedError:
            if not left:
                raise
    raise AssertionError  # unreachable: the last try raised or returned
