"""Groups dead letters by their errors, without what varies from one to the next."""

from dataclasses import dataclass
from datetime import datetime

from ..database import Fetch
from .dead_letters import MATCHES_SEARCH, MAX_ERROR_LENGTH, VARYING, DeadLetterSearch

MAX_GROUPED = 10_000
"""The newest matching dead letters that are grouped."""
MAX_ERRORS = 2_500
"""The newest different errors of these that are compared: a regular expression takes 10 us for each."""

# Equal errors first, which takes no regular expression.
GROUPS = f"""
SELECT s.shape AS error, sum(s.count)::bigint AS count, max(s.newest) AS newest
  FROM (SELECT regexp_replace(l.error, {VARYING}, '…', 'g') AS shape, l.*
          FROM (SELECT d.error, count(*) AS count, max(d.dead_at) AS newest
                  FROM (SELECT d.dead_at, left(d.error, {MAX_ERROR_LENGTH}) AS error
                          FROM deliveries d
                         WHERE {MATCHES_SEARCH}
                         ORDER BY d.dead_at DESC
                         LIMIT {MAX_GROUPED}) AS d
                 GROUP BY d.error
                 ORDER BY newest DESC
                 LIMIT {MAX_ERRORS}) AS l) AS s
 GROUP BY s.shape
 ORDER BY count DESC, newest DESC
 LIMIT $10
"""  # noqa: S608 - interpolates constant SQL only


@dataclass(frozen=True, slots=True)
class DeadLetterGroup:
    """The dead letters whose errors differ only in numbers, ids and quoted parts."""

    error: str | None
    """The error, with `…` for each part that varies; None if they have none."""
    count: int
    """Counted among the newest `MAX_GROUPED`, and `MAX_ERRORS` different errors of these."""
    newest: datetime
    """When the newest of them was dead-lettered."""


async def read_groups(fetch: Fetch, which: DeadLetterSearch, limit: int) -> list[DeadLetterGroup]:
    """Return the largest groups of matching dead letters, at most `limit`."""
    rows = await fetch(GROUPS, *which, limit)
    return [DeadLetterGroup(row["error"], row["count"], row["newest"]) for row in rows]
