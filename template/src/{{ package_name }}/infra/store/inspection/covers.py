"""Finds the actions and drops of a scope, and the events that they cover."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

from ....core.units import Scope
from ...database import Fetch, Row
from ..byte_budget import read_within
from ..codec import load_json_or_text
from ..times import calendar_time
from .units import as_object

OUTCOMES_AT_ONCE = 20
"""The actions and drops that are read at a time, until they and what they cover fill a page."""
NEXT_OUTCOMES = 10
"""The actions above a page that may cover events on it: the first one does, and later ones cover what was retried."""
CLOCK_SLACK = "interval '10 minutes'"
"""How far the order of times may differ from that of `seq`: long transactions, and clocks that are set."""


def _outcomes(kind: str, place: str, order: str, limit: str) -> str:
    return f"""
(SELECT r.seq, r.seq >= $3 AS above
   FROM events r
  WHERE r.type = '{kind}' AND r.scope = $2 AND r.source = 'agent:' || $1 AND {place}
  ORDER BY r.recorded_at {order}
  LIMIT {limit})"""  # noqa: S608 - interpolates constant SQL only


# Each type has an index by scope and time, so the place on the axis is translated to a time.
BELOW = "r.seq < $3 AND r.recorded_at <= (SELECT latest FROM place)"
ABOVE = "r.seq >= $3 AND r.recorded_at >= (SELECT earliest FROM place)"
OUTCOMES = f"""
WITH place AS MATERIALIZED (
    SELECT coalesce(max(p.at) + {CLOCK_SLACK}, 'infinity') AS latest,
           coalesce(max(p.at) - {CLOCK_SLACK}, '-infinity') AS earliest
      FROM (SELECT {calendar_time("e.recorded_at")} AS at FROM events e WHERE e.seq >= $3 ORDER BY e.seq LIMIT 1) AS p
)
{_outcomes("agent.action", BELOW, "DESC", "$4")}
 UNION ALL {_outcomes("agent.dropped", BELOW, "DESC", "$4")}
 UNION ALL {_outcomes("agent.action", ABOVE, "ASC", str(NEXT_OUTCOMES))}
 UNION ALL {_outcomes("agent.dropped", ABOVE, "ASC", str(NEXT_OUTCOMES))}
 ORDER BY 1 DESC
"""  # noqa: S608 - interpolates constant SQL only

FIND_COVERED = "SELECT e.seq, e.id FROM events e WHERE e.id = ANY ($1::text[]) AND e.seq < $2"


class Outcome(NamedTuple):
    """An action or a drop."""

    seq: int
    id: str
    type: str
    covers: list[str]


class Outcomes(NamedTuple):
    """The actions and drops that a page may need."""

    rows: list[int]
    """The `seq` of those below the page's beginning, newest first."""
    covering: list[Outcome]
    """Those whose covered events are to be found, newest first."""
    floor: int
    """The page is complete down to this `seq`: older actions were not looked into. 0 if all were."""


async def read_outcomes(
    fetch: Fetch, subscriber: str, scope: Scope, below: int, limit: int, max_bytes: int
) -> Outcomes:
    """Return the newest actions and drops below a `seq`, and the next ones above it."""
    rows = await fetch(OUTCOMES, subscriber, scope, below, limit)
    above = [row["seq"] for row in rows if row["above"]][-NEXT_OUTCOMES:]
    seqs = [row["seq"] for row in rows if not row["above"]][:limit]
    covering = await _look_into(fetch, above, NEXT_OUTCOMES, max_bytes)
    inside = await _look_into(fetch, seqs, limit, max_bytes)
    complete = len(inside) == len(seqs) < limit
    return Outcomes(seqs, [*covering, *inside], 0 if complete else inside[-1].seq)


async def _look_into(fetch: Fetch, seqs: list[int], limit: int, max_bytes: int) -> list[Outcome]:
    """Return the first of these outcomes with what they cover, until that makes more than `limit` entries."""
    found: list[Outcome] = []
    count = 0
    while count <= limit and (some := seqs[len(found) : len(found) + OUTCOMES_AT_ONCE]):
        chunk = await read_within(fetch, some, max_bytes)
        for row in chunk.rows:
            if count > limit:
                return found
            found.append(Outcome(row["seq"], row["id"], row["type"], covers_of(row)))
            count += 1 + len(found[-1].covers)
        if len(chunk.rows) < len(some):
            return found  # the budget of bytes, or a outcome that was pruned meanwhile
    return found


async def find_covered(
    fetch: Fetch, outcomes: Sequence[Outcome], below: int
) -> Mapping[int, Outcome]:
    """Return the outcome that covers each event with a lower `seq` than `below`."""
    by_id = {each: outcome for outcome in outcomes for each in outcome.covers}
    rows = await fetch(FIND_COVERED, list(by_id), below) if by_id else ()
    return {row["seq"]: by_id[row["id"]] for row in rows}


def covers_of(row: Row) -> list[str]:
    """Return the ids that an action or drop covers, even if it is erased or this code cannot read it."""
    return covered_ids(load_json_or_text(row["payload"]))


def covered_ids(payload: object) -> list[str]:
    """Return the ids that the payload of an action or drop names."""
    covers = as_object(payload).get("covers")
    if not isinstance(covers, list):
        return []
    return [each for each in cast("list[object]", covers) if isinstance(each, str)]
