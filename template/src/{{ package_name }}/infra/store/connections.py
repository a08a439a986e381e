"""The connections of an event store: the pool, and a dedicated connection for each job."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING
from uuid import uuid4
from weakref import WeakSet

import logfire

from .. import database
from ..database import LONG_STATEMENT_FACTOR, READ_COMMITTED, Fetch
from .dedicated import DedicatedConnection
from .drafts import NOTIFY_TIMEOUT, Drafts
from .notifier import Notifier
from .reads import make_readers, read_timeout

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    import asyncpg

    from ...config import Settings
    from ...core.units import Seconds

DEDICATED = ("publish", "settle", "memory", "follow", "catch up")
"""The jobs that have a dedicated connection each."""

CLAIM_PREFIX = "claims of "
"""How the `application_name` of connections that claim begins."""

# With stale statistics the planner would read whole tables.
USE_INDEXES = """
SET LOCAL enable_seqscan = off;
SET LOCAL enable_bitmapscan = off;
SET LOCAL enable_hashjoin = off;
SET LOCAL enable_mergejoin = off
"""


class StoreConnections:
    """Runs the statements of a store's parts. Call `close` at the end."""

    def __init__(self, pool: asyncpg.Pool, settings: Settings, subscriber: str) -> None:
        self.pool = pool
        self.settings = settings
        self.fetch: Fetch = pool.fetch
        self.long_timeout: Seconds = LONG_STATEMENT_FACTOR * settings.database_timeout
        """The time limit of statements that read many rows."""
        self.long_fetch: Fetch = partial(pool.fetch, timeout=self.long_timeout)
        """Runs statements within `long_timeout`."""
        self._all = WeakSet[DedicatedConnection]()
        self._abandoning: asyncio.TimerHandle | None = None
        self.claim_name = f"{claim_connection_prefix(subscriber)}{uuid4().hex[:8]}"
        """The `application_name` of the connections that claim."""
        self._dedicated = {job: self._dedicate() for job in DEDICATED}
        self._dedicated["find"] = self._dedicate(limit=read_timeout(settings))
        # For wake-ups and releases: if a crash of the server loses one, a fallback check or an expired lease
        # makes up for it.
        self._dedicated["unsynced"] = self._dedicate(synchronous_commit=False)
        self.publishing = self._dedicated["publish"]
        self.settling = self._dedicated["settle"]
        self.by_index: Fetch = self._dedicated["memory"].fetch
        """Runs a statement that an index supports, on a dedicated connection."""
        self.unsynced: Fetch = self._dedicated["unsynced"].fetch
        """Runs a statement whose loss in a crash of the server does no harm."""
        self.notifier = Notifier(self.unsynced, lambda: database.connect(settings))
        # Not among those that `/ready` checks: without it, clients only see an answer later.
        self.drafts = Drafts(
            self._dedicate(synchronous_commit=False, limit=NOTIFY_TIMEOUT), self.notifier
        )
        # The console's, opened by its first page: in the pool, the planner's choices would vary, and compiling a plan
        # takes longer than these statements. `/ready` does not check it either.
        self._inspecting = self._dedicate(limit=read_timeout(settings))
        self.readers = make_readers(
            pool, {**self._dedicated, "inspect": self._inspecting}, settings
        )

    def for_claims(self) -> DedicatedConnection:
        """Return a new connection for the claims of a consumer, which closes it.

        Its commits are asynchronous: if a crash of the server loses a claim, the event is claimed again.
        """
        return self._dedicate(synchronous_commit=False, name=self.claim_name)

    def _dedicate(
        self, *, synchronous_commit: bool = True, name: str = "agent", limit: Seconds | None = None
    ) -> DedicatedConnection:
        connect = partial(
            database.connect, self.settings, synchronous_commit=synchronous_commit, name=name
        )
        connection = DedicatedConnection(connect, limit)
        self._all.add(connection)
        return connection

    @asynccontextmanager
    async def transaction(self, settings: str | None = None) -> AsyncGenerator[Fetch]:
        """Open a transaction for statements that read many rows; `settings` are `SET LOCAL` statements."""
        async with (
            self.pool.acquire() as connection,
            connection.transaction(isolation=READ_COMMITTED),
        ):
            if settings is not None:
                await connection.execute(settings)
            yield partial(connection.fetch, timeout=self.long_timeout)

    @asynccontextmanager
    async def indexed_transaction(self) -> AsyncGenerator[Fetch]:
        """Open a transaction whose statements use indexes and have no spans."""
        with logfire.suppress_instrumentation():
            async with self.transaction(USE_INDEXES) as fetch:
                yield fetch

    def checks(self) -> dict[str, Callable[[], Awaitable[object]]]:
        """Return a health check for each connection, by name."""
        dedicated = {name: connection.check for name, connection in self._dedicated.items()}
        return {**dedicated, "listen": self.notifier.check}

    def abandon_after(self, limit: Seconds) -> None:
        """Let all statements fail after `limit` seconds, unless `close` has ended by then.

        A stop waits for the database several times in turn; this limits these waits together.
        """
        self._abandoning = asyncio.get_running_loop().call_later(limit, self._abandon)

    def _abandon(self) -> None:
        logfire.warn("The stop takes long: it waits for the database no longer")
        for connection in self._all:
            connection.abandon()
        self.pool.terminate()

    async def close(self) -> None:
        """Send the last wake-up and close the connections, in bounded time."""
        await asyncio.gather(self.notifier.close(), self.drafts.close())
        dedicated = (*self._dedicated.values(), self._inspecting)
        await asyncio.gather(*(connection.close() for connection in dedicated))
        if self._abandoning is not None:
            self._abandoning.cancel()


def claim_connection_prefix(subscriber: str) -> str:
    """Return the prefix of the `application_name` of connections that claim for a subscriber."""
    return f"{CLAIM_PREFIX}{subscriber[:40]} "  # the server keeps 63 characters
