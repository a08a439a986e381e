"""Reads who claims, and for which subscribers."""

from datetime import datetime
from typing import NamedTuple

from ...database import Fetch
from ..connections import CLAIM_PREFIX

SUFFIX_LENGTH = 9  # characters of a connection's name after its subscriber: " 0123abcd"

# Each worker has one connection that claims, named after its subscriber. `client_addr` is null on a socket of the same machine,
# and so are the details of other roles without `pg_read_all_stats`.
WORKERS = """
SELECT application_name AS name, host(client_addr) AS host, backend_start AS connected_at
  FROM pg_stat_activity
 WHERE datname = current_database() AND starts_with(application_name, $1)
 ORDER BY application_name
 LIMIT 1000
"""

SUBSCRIPTIONS = """
SELECT s.name, s.types, s.excluded, s.paused_at, s.paused_by
  FROM subscriptions s
 ORDER BY s.name
 LIMIT 1000
"""


class Worker(NamedTuple):
    """A connection that claims."""

    name: str
    """The end of its name, which differs from that of the subscriber's others; new with each connection."""
    subscriber: str
    """The name of its subscriber, of which the server keeps 40 characters."""
    host: str | None
    """The address that it connects from; None on a socket of the server's machine."""
    connected_at: datetime | None


class SubscriptionView(NamedTuple):
    """A subscriber, and the event types that it gets."""

    name: str
    types: list[str] | None
    """None for all types."""
    excluded: list[str]
    paused_at: datetime | None
    """When it was paused; None if it is not."""
    paused_by: str | None
    """The operator."""


async def read_workers(fetch: Fetch) -> list[Worker]:
    """Return the connections that claim, by subscriber."""
    return [
        Worker(
            row["name"][-SUFFIX_LENGTH + 1 :],
            row["name"].removeprefix(CLAIM_PREFIX)[:-SUFFIX_LENGTH],
            row["host"],
            row["connected_at"],
        )
        for row in await fetch(WORKERS, CLAIM_PREFIX)
    ]


async def read_subscriptions(fetch: Fetch) -> list[SubscriptionView]:
    """Return all subscribers, by name."""
    return [
        SubscriptionView(*(row[name] for name in SubscriptionView._fields))
        for row in await fetch(SUBSCRIPTIONS)
    ]
