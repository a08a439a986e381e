"""Lists scopes: those of the newest events first, and then the others by name.

No table has all scopes. Their names come from the newest part of the log, the scopes that acted, dropped or wait, and the
deliveries that are held or dead.
"""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from ....core.units import Scope
from ...database import Fetch
from ..contains import contains
from ..cursor import MAX_BIGINT
from ..journal import UNFINISHED
from ..times import calendar_time, with_timezone

RECENT_EVENTS = 5_000
"""The newest events whose scopes come first."""
MAX_NAMES = 5_000
"""The most names of each source that a page of all scopes reads."""
MAX_SEARCHED_NAMES = 25_000
"""The most names of each source that a search reads."""
MAX_DEAD = 10_000
"""The newest dead letters whose scopes are listed and counted."""
MAX_HELD = 10_000
"""The most held events that are counted exactly."""

MATCHES = f"""($1 = '' OR {contains("n.scope", "$1")})
   AND ($2::text[] IS NULL OR n.scope ^@ ANY ($2))"""
"""The SQL condition of a `ScopeSearch`, whose fields are the first parameters of the statement."""

# The scopes of the events from `$3` on, by their newest one, which must be older than `$4`.
RECENT = f"""
WITH newest AS MATERIALIZED (
    SELECT e.seq, e.scope, e.recorded_at FROM events e WHERE e.seq >= $3 ORDER BY e.seq DESC LIMIT $6
)
SELECT n.scope, max(n.seq) AS seq, {calendar_time("max(n.recorded_at)")} AS last_event_at,
       (SELECT count(*) FROM newest) AS looked_at, (SELECT min(seq) FROM newest) AS floor
  FROM newest n
 WHERE {MATCHES}
 GROUP BY n.scope
HAVING max(n.seq) < $4
 ORDER BY max(n.seq) DESC
 LIMIT $5
"""  # noqa: S608 - interpolates constant SQL only

KNOWN = "FROM scopes s WHERE s.subscriber = $7 AND s.scope > $4 ORDER BY s.scope"
HELD = """FROM deliveries s
            WHERE s.subscriber = $7 AND s.held_at IS NOT NULL AND s.scope > $4 ORDER BY s.scope"""

# All other scopes whose names come after `$4`. A source that has more than `$6` names was read up to `reached`.
NAMED = f"""
WITH ends AS MATERIALIZED (
    SELECT least((SELECT s.scope {KNOWN} OFFSET $6 - 1 LIMIT 1), (SELECT s.scope {HELD} OFFSET $6 - 1 LIMIT 1)) AS reached
), newest AS (
    SELECT e.scope FROM events e WHERE e.seq >= $3 ORDER BY e.seq DESC LIMIT 2 * {RECENT_EVENTS}
), names AS (
    SELECT n.scope FROM (SELECT s.scope {KNOWN} LIMIT $6) AS n WHERE {MATCHES}
     UNION
    SELECT n.scope FROM (SELECT s.scope {HELD} LIMIT $6) AS n WHERE {MATCHES}
     UNION
    SELECT n.scope FROM (
           SELECT d.scope FROM deliveries d
            WHERE d.subscriber = $7 AND d.dead_at IS NOT NULL
            ORDER BY d.dead_at DESC LIMIT {MAX_DEAD}) AS n
     WHERE n.scope > $4 AND {MATCHES}
)
SELECT n.scope, e.reached
  FROM ends e
  LEFT JOIN LATERAL (
       SELECT n.scope FROM names n
        WHERE (e.reached IS NULL OR n.scope <= e.reached)
          AND n.scope NOT IN (SELECT scope FROM newest)
        ORDER BY n.scope
        LIMIT $5) AS n ON true
"""  # noqa: S608 - interpolates constant SQL only

DETAILS = f"""
WITH dead AS MATERIALIZED (
    SELECT d.scope, count(*) AS count
      FROM (SELECT l.scope FROM deliveries l
             WHERE l.subscriber = $1 AND l.dead_at IS NOT NULL
             ORDER BY l.dead_at DESC LIMIT {MAX_DEAD}) AS d
     WHERE d.scope = ANY ($2::text[])
     GROUP BY d.scope
)
SELECT n.scope, s.last_action_at, s.wake_at,
       (SELECT count(*) FROM (
           SELECT FROM deliveries d
            WHERE d.subscriber = $1 AND d.scope = n.scope AND d.held_at IS NOT NULL
            LIMIT {MAX_HELD}) AS h) AS held,
       (SELECT {calendar_time("e.recorded_at")} FROM events e WHERE e.seq = (
           SELECT max(d.seq) FROM deliveries d
            WHERE d.subscriber = $1 AND d.scope = n.scope AND d.held_at IS NOT NULL)) AS held_event_at,
       coalesce((SELECT x.count FROM dead x WHERE x.scope = n.scope), 0) AS dead,
       EXISTS (SELECT 1 {UNFINISHED} WHERE p.subscriber = $1 AND p.scope = n.scope) AS pinned
  FROM unnest($2::text[]) WITH ORDINALITY AS n (scope, place)
  LEFT JOIN scopes s ON s.subscriber = $1 AND s.scope = n.scope
 ORDER BY n.place
"""  # noqa: S608 - interpolates constant SQL only

NEWEST_SEQ = "SELECT coalesce(max(seq), 0) AS seq FROM events"
FLOOR = "SELECT e.seq FROM events e WHERE e.seq <= $1 ORDER BY e.seq DESC OFFSET $2 LIMIT 1"


class ScopeSearch(NamedTuple):
    """Selects scopes by their names."""

    text: str = ""
    """A part of the name, in any case; empty for all."""
    within: Sequence[str] | None = None


class ScopeRow(NamedTuple):
    """A scope as lists show it."""

    scope: Scope
    held: int
    """At most `MAX_HELD` are counted."""
    dead: int
    """Counted among the newest `MAX_DEAD` dead letters of the subscriber."""
    pinned: bool
    """Whether it has an unfinished decision, of which results are recorded."""
    last_event_at: datetime | None
    """When the newest of its events was recorded, among the newest of the log and those that it holds."""
    last_action_at: datetime | None
    wake_at: datetime | None
    """When its trigger is evaluated again without an event."""


class ScopePage(NamedTuple):
    """A page of scopes."""

    rows: list[ScopeRow]
    after: str | None
    """The cursor of the next page, which may have few rows; None if this is the last."""
    looked_at: int
    """How many of the newest events determined which scopes come first."""


class _Place(NamedTuple):
    """Where a page begins."""

    floor: int
    """The `seq` of the oldest event that counts as one of the newest."""
    seq: int | None
    """Continues with scopes whose newest event has a lower `seq`; None after the last of these."""
    name: str = ""
    """Continues with the names after this one."""

    def __str__(self) -> str:
        return f"{self.floor}.{self.name}" if self.seq is None else f"{self.floor}/{self.seq}"

    @classmethod
    def parse(cls, text: str) -> "_Place":
        """Parse a cursor.

        Raises:
            ValueError: the text is not a cursor.
        """
        found = re.fullmatch(r"(\d{1,18})(?:/(\d{1,18})|\.(.*))", text, re.ASCII | re.DOTALL)
        if found is None or "\x00" in text:
            raise ValueError(
                f"after: {text[:80]!r} is not a valid cursor: pass one that a page returned"
            )
        return cls(int(found[1]), (found[2] and int(found[2])) or None, found[3] or "")


async def read_scopes(
    fetch: Fetch, subscriber: str, search: ScopeSearch, after: str | None, limit: int
) -> ScopePage:
    """Return at most `limit` scopes after a cursor.

    Raises:
        ValueError: `after` is not a cursor.
    """
    place = await _first(fetch) if after is None else _Place.parse(after)
    names: dict[Scope, datetime | None] = {}
    looked_at = 0
    if place.seq is not None:
        rows = await fetch(RECENT, *search, place.floor, place.seq, limit, 2 * RECENT_EVENTS)
        names = {row["scope"]: with_timezone(row["last_event_at"]) for row in rows}
        looked_at = rows[0]["looked_at"] if rows else 0
        full = len(rows) == limit
        place = _Place(place.floor, rows[-1]["seq"] if full else None)
    if place.seq is not None:
        following: _Place | None = place
    else:
        following = await _add_named(fetch, subscriber, search, place, names, limit)
    shown = await _details(fetch, subscriber, names)
    return ScopePage(shown, None if following is None else str(following), looked_at)


async def _first(fetch: Fetch) -> _Place:
    [newest] = await fetch(NEWEST_SEQ)
    floor = await fetch(FLOOR, newest["seq"], RECENT_EVENTS - 1)
    return _Place(floor[0]["seq"] if floor else 0, MAX_BIGINT)


async def _add_named(
    fetch: Fetch,
    subscriber: str,
    search: ScopeSearch,
    place: _Place,
    names: dict[Scope, datetime | None],
    limit: int,
) -> _Place | None:
    """Add the next scopes by name; return where the next page begins."""
    left = limit - len(names)
    most = MAX_NAMES if search == ScopeSearch() else MAX_SEARCHED_NAMES
    rows = await fetch(NAMED, *search, place.floor, place.name, left, most, subscriber)
    found = [row["scope"] for row in rows if row["scope"] is not None]
    names |= dict.fromkeys(found)
    if found and len(found) == left:
        return place._replace(name=found[-1])
    reached = rows[0]["reached"]
    return None if reached is None else place._replace(name=reached)


async def _details(
    fetch: Fetch, subscriber: str, names: dict[Scope, datetime | None]
) -> list[ScopeRow]:
    rows = await fetch(DETAILS, subscriber, list(names)) if names else ()
    return [
        ScopeRow(
            row["scope"],
            row["held"],
            row["dead"],
            row["pinned"],
            names[row["scope"]] or (row["held_event_at"] and with_timezone(row["held_event_at"])),
            row["last_action_at"],
            row["wake_at"],
        )
        for row in rows
    ]
