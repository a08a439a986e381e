"""Groups dead letters by their errors, without what varies from one to the next."""

from dataclasses import dataclass
from datetime import datetime

from ..database import Fetch
from .dead_letters import GROUP_OF_ERROR, MATCHES_SEARCH, DeadLetterSearch

MAX_GROUPED = 10_000
"""The newest matching dead letters that are grouped."""
GROUPS = f"""
SELECT s.error, count(*) AS count, max(s.dead_at) AS newest,
       (SELECT e.id FROM events e WHERE e.seq = max(s.seq)) AS sample
  FROM (SELECT d.seq, d.dead_at, {GROUP_OF_ERROR} AS error
          FROM (SELECT d.seq, d.dead_at, d.error
                  FROM deliveries d
                 WHERE {MATCHES_SEARCH}
                 ORDER BY d.dead_at DESC
                 LIMIT {MAX_GROUPED}) AS d) AS s
 GROUP BY s.error
 ORDER BY count DESC, newest DESC
 LIMIT $10
"""  # noqa: S608 - interpolates constant SQL only


@dataclass(frozen=True, slots=True)
class DeadLetterGroup:
    """The dead letters whose errors differ only in numbers, ids and quoted parts."""

    error: str | None
    """The error, with `…` for each part that varies; None if they have none."""
    count: int
    """Counted among the newest `MAX_GROUPED`."""
    newest: datetime
    """When the newest of them was dead-lettered."""
    sample: str
    """The id of the event of one of them."""


async def read_groups(fetch: Fetch, which: DeadLetterSearch, limit: int) -> list[DeadLetterGroup]:
    """Return the largest groups of matching dead letters, at most `limit`."""
    rows = await fetch(GROUPS, *which, limit)
    return [
        DeadLetterGroup(row["error"], row["count"], row["newest"], row["sample"]) for row in rows
    ]
