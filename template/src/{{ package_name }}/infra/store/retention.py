"""Prunes the log while the service runs: what is older than `LOG_RETENTION`, and ticks that led to nothing.

One process of the fleet runs it at a time, since the run is claimed in the table `maintenance`, which also keeps how the
last run went. The log is scanned in order of `seq`, in short transactions, and the scan ends at the first young events.
"""

import asyncio
import time
from datetime import datetime
from typing import NamedTuple

import logfire

from ...core.units import Seconds
from ..database import DATABASE_UNAVAILABLE, Fetch, reason
from ..telemetry import counters
from .connections import StoreConnections
from .prune import PRUNABLE, PRUNE_SCOPES
from .times import with_timezone

INTERVAL: Seconds = 600.0  # between two runs of the fleet
MAX_RUN: Seconds = 300.0  # so that two runs never overlap; the next one goes on
CHUNK = 2_000  # events scanned in a transaction
CHUNK_PAUSE: Seconds = 0.05  # between transactions, for the others of the database
TICK_AGE: Seconds = 86_400.0  # then a tick that led to nothing is deleted
TICK_SLACK: Seconds = 3_600.0  # after CONTEXT_MAX_AGE, for what is dropped to be dropped

# A start in the future means that a clock was set back.
CLAIM_RUN = """
INSERT INTO maintenance (name, started_at) VALUES ('retention', now())
    ON CONFLICT (name) DO UPDATE SET started_at = now()
 WHERE maintenance.started_at NOT BETWEEN now() - $1::float8 * interval '1 second'
                                      AND now() + $1::float8 * interval '1 second'
RETURNING through
"""

END_RUN = """
UPDATE maintenance SET ended_at = now(), deleted = $1, error = $2, through = coalesce($3, through)
 WHERE name = 'retention'
"""

LAST_RUN = "SELECT started_at, ended_at, deleted, error FROM maintenance WHERE name = 'retention'"

LOOKED = """
WITH looked AS (
    SELECT e.seq, e.recorded_at < now() - $1::float8 * interval '1 second' AS old
      FROM events e WHERE e.seq > $2 ORDER BY e.seq LIMIT $3
)"""

PRUNE_PART = f"""{LOOKED}, gone AS (
    DELETE FROM events WHERE seq IN (SELECT e.seq {PRUNABLE} AND e.seq IN (SELECT seq FROM looked))
    RETURNING seq
)
SELECT (SELECT count(*) FROM gone) AS count, max(seq) AS through, coalesce(bool_or(old), false) AS more
  FROM looked
"""  # noqa: S608 - interpolates constant SQL only

# A tick that an action covers stays as long as other events. The index of actions finds those of its scope.
PRUNE_TICKS = f"""{LOOKED}, gone AS (
    DELETE FROM events WHERE seq IN (
        SELECT e.seq FROM events e
         WHERE e.seq IN (SELECT seq FROM looked WHERE old) AND e.type = 'timer.tick'
           AND NOT EXISTS (SELECT FROM deliveries d WHERE d.seq = e.seq)
           AND NOT EXISTS (SELECT FROM events a
                            WHERE a.type = 'agent.action' AND a.scope = e.scope
                              AND a.recorded_at >= e.recorded_at AND a.payload -> 'covers' ? e.id))
    RETURNING seq
)
SELECT (SELECT count(*) FROM gone) AS count, coalesce(bool_and(old), false) AS more,
       coalesce(min(seq) FILTER (WHERE NOT old) - 1, max(seq)) AS through
  FROM looked
"""  # noqa: S608 - interpolates constant SQL only


class LastRun(NamedTuple):
    """How the last run of the fleet went."""

    started_at: datetime
    ended_at: datetime | None
    """When a run last ended; None before the first one has."""
    deleted: int
    """The number of events that it deleted."""
    error: str | None
    """Why it failed."""


async def last_run(fetch: Fetch) -> LastRun | None:
    """Return how the last run went; None before the first."""
    rows = await fetch(LAST_RUN)
    if not rows:
        return None
    ended = rows[0]["ended_at"]
    run = LastRun(*(rows[0][name] for name in LastRun._fields))
    return run._replace(
        started_at=with_timezone(run.started_at), ended_at=ended and with_timezone(ended)
    )


async def run_if_due(connections: StoreConnections, older_than: Seconds) -> int | None:
    """Delete events older than `older_than` seconds if a run is due; return their number, or None.

    What is pending, held or dead-lettered stays. A failure is logged and stored, and the next run tries again.

    Raises:
        DatabaseUnavailable: the run could not be claimed, or its end not stored.
    """
    async with connections.indexed_transaction() as fetch:
        claimed = await fetch(CLAIM_RUN, INTERVAL)
    if not claimed:
        return None
    run = _Run(connections, time.monotonic() + MAX_RUN)
    error: str | None = None
    through: int | None = None
    try:
        await _prune_scopes(connections, older_than)
        await run.prune(PRUNE_PART, older_than, 0)
        tick_age = max(TICK_AGE, connections.settings.context_max_age + TICK_SLACK)
        through = await run.prune(PRUNE_TICKS, tick_age, claimed[0]["through"])
    except Exception as failure:
        error = reason(failure)
        logfire.error("The log was not pruned: {error}", error=error)
        if isinstance(failure, DATABASE_UNAVAILABLE):
            raise
    finally:
        counters.pruned.add(run.deleted)
    async with connections.indexed_transaction() as fetch:
        await fetch(END_RUN, run.deleted, error, through)
    if run.deleted:
        logfire.info(
            "Pruned {count} events: those older than LOG_RETENTION, and ticks that led to nothing",
            count=run.deleted,
        )
    return run.deleted


class _Run:
    """One run, with the number of events that it has deleted so far."""

    def __init__(self, connections: StoreConnections, deadline: Seconds) -> None:
        self._connections = connections
        self._deadline = deadline
        self.deleted = 0

    async def prune(self, statement: str, age: Seconds, after: int) -> int:
        """Delete in parts what a statement selects, until the log is young or the time is over.

        Returns the `seq` up to which the log was scanned.
        """
        while time.monotonic() < self._deadline:
            async with self._connections.indexed_transaction() as fetch:
                [row] = await fetch(statement, age, after, CHUNK)
            self.deleted += row["count"]
            after = after if row["through"] is None else row["through"]
            if not row["more"]:
                break
            await asyncio.sleep(CHUNK_PAUSE)
        return after


async def _prune_scopes(connections: StoreConnections, older_than: Seconds) -> None:
    async with connections.transaction() as fetch:
        await fetch(PRUNE_SCOPES, older_than)
