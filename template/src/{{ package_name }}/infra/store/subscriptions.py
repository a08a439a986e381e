"""Subscriptions: which subscriber gets events of which types."""

import asyncio
from collections.abc import Callable
from datetime import datetime

from ...core.units import Seconds
from ..database import Fetch
from .codec import ERASED

# The events that the service itself publishes about its work.
DEFAULT_EXCLUDED_TYPES = ["agent.action", "agent.dropped", "lifecycle", "operator.action"]
TRANSACTION_POLL: Seconds = 0.05  # between checks that older transactions ended

SUBSCRIBERS = "SELECT name FROM subscriptions ORDER BY name"

ADD_SUBSCRIPTION = """
INSERT INTO subscriptions (name, types, excluded) VALUES ($1, $2, $3)
    ON CONFLICT (name) DO UPDATE SET types = excluded.types, excluded = excluded.excluded
RETURNING pg_current_xact_id()::text AS tx, (xmax = 0) AS created
"""

TRANSACTION_ENDED = "SELECT pg_snapshot_xmin(pg_current_snapshot()) > $1::text::xid8 AS ended"

BACKFILL = f"""
INSERT INTO deliveries (subscriber, seq, scope)
SELECT s.name, e.seq, e.scope
  FROM subscriptions s
  JOIN events e ON (s.types IS NULL OR e.type = ANY (s.types)) AND e.type <> ALL (s.excluded)
 WHERE s.name = $1 AND e.recorded_at >= $2 AND NOT e.headers ? '{ERASED}'
    ON CONFLICT DO NOTHING
RETURNING seq
"""  # noqa: S608 - interpolates constant SQL only


async def subscribers(fetch: Fetch) -> list[str]:
    """Return the names of all subscribers."""
    return [row["name"] for row in await fetch(SUBSCRIBERS)]


async def add_subscription(
    fetch: Fetch,
    long_fetch: Fetch,
    subscriber: str,
    types: list[str] | None,
    since: datetime | None,
    now: Callable[[], datetime],
) -> bool:
    """Register a subscriber for events from now on, or since a given time; return whether there are such events.

    The subscription commits first. Transactions that are older do not see it, so this waits until all of
    them have ended, and then adds the deliveries of their events.
    """
    excluded = DEFAULT_EXCLUDED_TYPES if types is None else []
    [row] = await fetch(ADD_SUBSCRIPTION, subscriber, types, excluded)
    if not row["created"] and since is None:
        return False
    begin = since or now()
    while not (await fetch(TRANSACTION_ENDED, row["tx"]))[0]["ended"]:  # noqa: ASYNC110 - the server sends no signal when a transaction ends
        await asyncio.sleep(TRANSACTION_POLL)
    return bool(await long_fetch(BACKFILL, subscriber, begin))
