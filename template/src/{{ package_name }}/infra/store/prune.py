"""Prunes the log: deletes old events that no subscriber needs."""

from collections.abc import AsyncIterator

from ...core.units import Seconds
from ..database import Fetch

PRUNE_CHUNK = 5_000  # events a transaction, so that none blocks others for long

# An event is kept while it has a delivery, held and dead ones included. An `agent.dropped` is kept while
# an event that it covers has a delivery for another subscriber: it is the source of that event's status.
PRUNABLE = """
  FROM events e
 WHERE e.recorded_at < now() - $1::float8 * interval '1 second'
   AND NOT EXISTS (SELECT FROM deliveries d WHERE d.seq = e.seq)
   AND (e.type <> 'agent.dropped' OR NOT EXISTS (
       SELECT FROM jsonb_array_elements_text(
              CASE jsonb_typeof(e.payload -> 'covers') WHEN 'array' THEN e.payload -> 'covers'
              ELSE '[]' END) AS c (id)
         JOIN events k ON k.id = c.id JOIN deliveries d ON d.seq = k.seq))
"""

COUNT_PRUNABLE = f"SELECT count(*) AS count {PRUNABLE}"

PRUNE = f"""
DELETE FROM events WHERE seq IN (SELECT e.seq {PRUNABLE} AND e.seq > $3 ORDER BY e.seq LIMIT $2)
RETURNING seq
"""  # noqa: S608 - interpolates constant SQL only

# Deletes scopes without held deliveries, notes or a recent action. Their version restarts at 0, so a
# context that was cached under the old version counts as changed.
PRUNE_SCOPES = """
DELETE FROM scopes s
 WHERE coalesce(s.last_action_at, '-infinity') < now() - $1::float8 * interval '1 second'
   AND s.scratch = '{}'
   AND NOT EXISTS (
       SELECT FROM deliveries d
        WHERE d.subscriber = s.subscriber AND d.scope = s.scope AND d.held_at IS NOT NULL)
"""


async def count_prunable(fetch: Fetch, older_than: Seconds) -> int:
    """Return how many events `prune` would delete."""
    return (await fetch(COUNT_PRUNABLE, older_than))[0]["count"]


async def prune(fetch: Fetch, older_than: Seconds) -> AsyncIterator[int]:
    """Delete events older than `older_than` seconds that have no delivery; yield each chunk's count."""
    await fetch(PRUNE_SCOPES, older_than)
    last_seq = 0
    while rows := await fetch(PRUNE, older_than, PRUNE_CHUNK, last_seq):
        last_seq = max(row["seq"] for row in rows)
        yield len(rows)
