"""Erases a scope: its events, their deliveries, and each subscriber's notes."""

from collections.abc import AsyncGenerator

from ...core.units import Scope
from ..database import Fetch

BATCH_SIZE = 5_000  # events scanned in one transaction, so that none blocks others for long

# Scans the log from its beginning, since it has no index by scope.
SCAN = """
SELECT max(w.seq) AS through,
       coalesce(array_agg(w.seq) FILTER (WHERE w.scope = $1), '{}') AS found
  FROM (SELECT e.seq, e.scope FROM events e WHERE e.seq > $2 ORDER BY e.seq LIMIT $3) AS w
"""

# Without its deliveries, no decision under way can act. The new version invalidates cached contexts. Rows are
# locked in the order in which workers settle them, which prevents deadlocks.
FORGET = """
WITH known AS (
    SELECT d.subscriber, d.seq FROM deliveries d WHERE d.scope = $1 ORDER BY d.seq FOR UPDATE
), gone AS (
    DELETE FROM deliveries d USING known k WHERE d.seq = k.seq AND d.subscriber = k.subscriber
), remembering AS (
    SELECT subscriber FROM known UNION SELECT subscriber FROM scopes WHERE scope = $1
)
INSERT INTO scopes (subscriber, scope, version)
SELECT subscriber, $1, 1 FROM remembering
    ON CONFLICT (subscriber, scope) DO UPDATE
   SET version = scopes.version + 1, scratch = '{}', last_action_at = NULL
"""

# Also deletes deliveries that a new subscription has added since.
ERASE = """
WITH gone AS (
    DELETE FROM events WHERE seq = ANY ($1::bigint[]) RETURNING seq
), unneeded AS (
    DELETE FROM deliveries d USING gone WHERE d.seq = gone.seq
)
SELECT count(*) AS count FROM gone
"""


async def count_events(fetch: Fetch, scope: Scope) -> int:
    """Return the number of a scope's events in the log."""
    return sum([len(found) async for found in _scan(fetch, scope)])


async def erase(fetch: Fetch, scope: Scope) -> AsyncGenerator[int]:
    """Delete everything of a scope; yield the number of events of each transaction.

    An interrupted erasure can be repeated. The name of the scope stays in `scopes`, with its version, until
    the log is pruned next.
    """
    await fetch(FORGET, scope)
    async for found in _scan(fetch, scope):
        [row] = await fetch(ERASE, found)
        yield row["count"]
    await fetch(FORGET, scope)  # invalidates contexts that were rebuilt meanwhile


async def _scan(fetch: Fetch, scope: Scope) -> AsyncGenerator[list[int]]:
    """Yield the `seq` of each of a scope's events, in one list for each transaction."""
    through = 0
    while through is not None:
        [row] = await fetch(SCAN, scope, through, BATCH_SIZE)
        if row["found"]:
            yield row["found"]
        through = row["through"]
