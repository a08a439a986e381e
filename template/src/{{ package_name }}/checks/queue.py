"""Checks the queue: events that wait in silent scopes, workers that do not see each other, and missing ones."""

from collections.abc import Sequence

import asyncpg

from .. import COMMAND
from ..config import Settings
from ..core.units import Seconds
from ..infra.connections import CONNECT_TIMEOUT, open_connection
from ..infra.locks import ScopedLocks
from ..infra.store.connections import claim_connection_prefix
from ..infra.store.pausing import Pause, read_pauses
from ..infra.store.stats import QueueStats, stats
from .findings import Finding, ok, warning

HOUR: Seconds = 3_600.0
UNCLAIMED: Seconds = (
    300.0  # the age of a pending event that no worker of a running service has left
)

# The scopes of each subscriber in which nothing was held for so long, though they hold events.
# Scopes whose trigger waits for a time are not silent: it is evaluated then.
SILENT = """
SELECT subscriber, count(*) AS scopes, sum(held)::bigint AS events,
       extract(epoch FROM now() - min(oldest))::float8 AS age,
       (array_agg(scope ORDER BY oldest))[1:2] AS names
  FROM (SELECT subscriber, scope, count(*) AS held, min(held_at) AS oldest
          FROM deliveries d
         WHERE held_at IS NOT NULL
           AND NOT EXISTS (SELECT FROM scopes s
                            WHERE s.subscriber = d.subscriber AND s.scope = d.scope
                              AND s.wake_at IS NOT NULL)
         GROUP BY subscriber, scope
        HAVING max(held_at) < now() - $1::float8 * interval '1 second') AS silent
 GROUP BY subscriber ORDER BY subscriber
"""
# Every worker has one connection that claims, named after its subscriber.
WORKERS = """
SELECT count(DISTINCT application_name)::int FROM pg_stat_activity
 WHERE datname = current_database() AND starts_with(application_name, $1)
"""


async def check_queue(settings: Settings) -> list[Finding]:
    """Return what is wrong with the deliveries and the workers of each subscriber."""
    connection = await open_connection(
        settings.dsn, timeout=CONNECT_TIMEOUT, tcp_timeout=settings.database_timeout
    )
    try:
        async with connection.transaction(readonly=True):
            return await _faults(connection, settings)
    finally:
        await connection.close(timeout=CONNECT_TIMEOUT)


async def _faults(connection: asyncpg.Connection, settings: Settings) -> list[Finding]:
    counts = await stats(connection.fetch, connection.fetch)
    workers = {
        each.subscriber: await connection.fetchval(
            WORKERS, claim_connection_prefix(each.subscriber)
        )
        for each in counts
    }
    # Half of the age at which held events are dropped leaves time to do something about them.
    silent = await connection.fetch(SILENT, settings.context_max_age / 2)
    found = [_held(row, settings.context_max_age) for row in silent]
    found += [
        _several(name, count)
        for name, count in workers.items()
        if count > 1 and not ScopedLocks.across_processes
    ]
    found += [_unclaimed(each) for each in counts if _is_unclaimed(each, workers)]
    found += [_paused(each, counts) for each in await read_pauses(connection.fetch)]
    running = ", ".join(f"{count} for {name}" for name, count in workers.items() if count)
    return found or [ok("queue", f"workers: {running or 'none runs now'}")]


def _held(row: asyncpg.Record, most: Seconds) -> Finding:
    names = ", ".join(row["names"]) + (", ..." if row["scopes"] > len(row["names"]) else "")
    age = row["age"] / HOUR
    end = (
        f"they are dropped after {most / HOUR:g} h" if row["age"] < most else "no worker drops them"
    )
    return warning(
        "held events",
        "Publish to these scopes again, or let their trigger act sooner",
        f"{row['subscriber']} holds {row['events']} events in {row['scopes']} scopes that got none for"
        f" {most / 2 / HOUR:g} h ({names}), the oldest for {age:.1f} h: {end}",
    )


def _several(subscriber: str, count: int) -> Finding:
    return warning(
        "workers",
        "Stop all workers but one, or update the project with another answer to `locks`",
        f"{count} workers claim for {subscriber}, and locks in memory do not exclude each other",
    )


def _is_unclaimed(counts: QueueStats, workers: dict[str, int]) -> bool:
    """Return whether nobody consumes for a subscriber, although the service runs or events wait for long."""
    if workers[counts.subscriber]:
        return False
    return any(workers.values()) or (counts.oldest_seconds or 0.0) > UNCLAIMED


def _paused(pause: Pause, counts: Sequence[QueueStats]) -> Finding:
    depth = sum(each.depth for each in counts if each.subscriber == pause.subscriber)
    return warning(
        "paused",
        f"Resume it once its reason is gone (`{COMMAND} resume {pause.subscriber}`)",
        f"{pause}, and has {depth} pending events",
    )


def _unclaimed(counts: QueueStats) -> Finding:
    return warning(
        "subscribers",
        f"Start its worker (`{COMMAND} worker`), or delete it if nothing uses it any more",
        f"nobody consumes for {counts.subscriber}, which has {counts.depth} pending events",
    )
