"""The administration of dead letters: lists, groups, counts, retries and purges."""

from __future__ import annotations

from typing import TYPE_CHECKING

import logfire

from ..telemetry import counters
from . import operators
from .dead_letter_groups import read_groups
from .dead_letters import (
    DeadLetterSearch,
    count_dead_letters,
    purge_dead_letters,
    read_dead_letters,
    retry_dead_letters,
)
from .insert import insert_events

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..database import Fetch
    from .codec import Limits
    from .connections import StoreConnections
    from .dead_letter_groups import DeadLetterGroup
    from .dead_letters import DeadLetter, DeadLetterCursor, DeadLetterPage, LetterAction


class DeadLetterAdministration:
    """What operators do with dead letters; see `Administration`."""

    def __init__(self, connections: StoreConnections, limits: Limits, subscriber: str) -> None:
        self._connections = connections
        self._limits = limits
        self._subscriber = subscriber

    async def dlq_list(
        self, limit: int, subscriber: str | None, within: Sequence[str] | None
    ) -> list[DeadLetter]:
        """Return the newest dead letters; see `EventStore.dlq_list`."""
        page = await self.dlq_page(limit, subscriber=subscriber, within=within)
        if page.stopped_at == "bytes":
            logfire.warn(
                "The list ends after {count} dead letters: they have API_MAX_PAGE_BYTES ({most})",
                count=len(page.letters),
                most=self._connections.settings.api_max_page_bytes,
            )
        return page.letters

    async def dlq_page(
        self,
        limit: int = 100,
        *,
        before: DeadLetterCursor | None = None,
        subscriber: str | None = None,
        within: Sequence[str] | None = None,
    ) -> DeadLetterPage:
        """Return the newest dead letters before a cursor, in at most `API_MAX_PAGE_BYTES`."""
        which = self._dead(None, subscriber, within)
        return await self._dead_letters(self._connections.readers.list, which, before, limit)

    async def dlq_show(
        self, event_id: str, subscriber: str | None, within: Sequence[str] | None
    ) -> DeadLetter | None:
        """Return the dead letter of one event; None if it has none."""
        which = self._dead(event_id, subscriber, within)
        found = await self._dead_letters(self._connections.readers.list, which, None, 1)
        return found.letters[0] if found.letters else None

    async def dlq_count(self, event_id: str | None = None, *, subscriber: str | None = None) -> int:
        """Return how many dead letters `EventStore.dlq_purge` would delete."""
        which = self._dead(event_id, subscriber, None)
        return await count_dead_letters(self._connections.long_fetch, which)

    async def change_dead_letters(
        self,
        action: LetterAction,
        event_id: str | None,
        subscriber: str | None,
        within: Sequence[str] | None,
        by: str | None,
    ) -> int:
        """Retry or purge one dead letter, or all, and record the operator; return their number."""
        return await self.change_matching(action, self._dead(event_id, subscriber, within), by)

    async def dead_letters(
        self, search: DeadLetterSearch, before: DeadLetterCursor | None = None, limit: int = 100
    ) -> DeadLetterPage:
        """Return the newest matching dead letters before a cursor, in at most `API_MAX_PAGE_BYTES`."""
        return await self._dead_letters(self._connections.readers.inspect, search, before, limit)

    async def _dead_letters(
        self, fetch: Fetch, which: DeadLetterSearch, before: DeadLetterCursor | None, limit: int
    ) -> DeadLetterPage:
        max_bytes = self._connections.settings.api_max_page_bytes
        return await read_dead_letters(fetch, which, limit, max_bytes, before)

    async def dead_letter_groups(
        self, search: DeadLetterSearch, limit: int = 50
    ) -> list[DeadLetterGroup]:
        """Return the largest groups of matching dead letters by error; see `dead_letter_groups`."""
        return await read_groups(self._connections.readers.inspect, search, limit)

    async def count_dead_letters(self, search: DeadLetterSearch) -> int:
        """Return the number of matching dead letters."""
        return await count_dead_letters(self._connections.readers.inspect, search)

    async def change_matching(
        self, action: LetterAction, search: DeadLetterSearch, by: str | None
    ) -> int:
        """Retry or purge all matching dead letters, and record the operator; return their number."""
        change = retry_dead_letters if action == "retry" else purge_dead_letters
        async with self._connections.transaction() as fetch:
            done = await change(fetch, search)
            if done and by is not None:
                record = operators.dead_letter_record(action, by, search, done)
                await insert_events(fetch, [record], self._limits)
        counters.published.add(int(bool(done) and by is not None))
        self._connections.notifier.notify()
        return len(done)

    def _dead(
        self, event_id: str | None, subscriber: str | None, within: Sequence[str] | None
    ) -> DeadLetterSearch:
        return DeadLetterSearch(subscriber or self._subscriber, event_id, within=within)
