"""Publishes events: single ones by group commit, many in one transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg

from ..telemetry import counters
from ..telemetry.spans import group_commit_insert, is_traced, records_details, step
from . import operators
from .group_commit import GroupCommit
from .insert import PreparedEvent, current_trace, insert_each, insert_events, prepare

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...core.events import Event
    from .codec import Limits
    from .connections import StoreConnections
    from .insert import EventConflict

MAX_TRANSACTION_TRIES = 5  # of a batch that deadlocks with others with the same ids


class Publisher:
    """Publishes the events of one process and wakes the subscribers."""

    def __init__(self, connections: StoreConnections, limits: Limits) -> None:
        self._connections = connections
        self._limits = limits
        self._group = GroupCommit[PreparedEvent, bool](self._flush)

    async def publish(self, event: Event) -> bool:
        """Insert an event, in a commit that it may share; return False if it was published before.

        Raises:
            InvalidEvent: it cannot be stored, or its chain of causes is too long.
            EventConflict: its id was published before with other content.
        """
        new = await self._submit(event)
        if new:
            self._connections.notifier.notify()
        return new

    async def publish_many(self, events: Sequence[Event], by: str | None = None) -> int:
        """Insert all events or, on an error, none; return how many were new.

        With `by`, the name of an operator, an `operator.action` records the publication.

        Raises:
            InvalidEvent: an event cannot be stored.
            EventConflict: an id was published before with other content.
        """
        new = await self._insert_many(events, by)
        if new:
            counters.published.add(new + (by is not None))
            self._connections.notifier.notify()
        return new

    async def _submit(self, event: Event) -> bool:
        if not records_details() or not is_traced():
            return await self._group.submit(prepare(event, self._limits, current_trace()))
        with step("store.publish", event_id=event.id, event_type=event.type) as span:
            prepared = prepare(event, self._limits, current_trace())
            return await self._group.submit(prepared._replace(span=span))

    async def _insert_many(self, events: Sequence[Event], by: str | None) -> int:
        """Insert events in a transaction; retry it after a deadlock with one that has the same ids."""
        for left in reversed(range(MAX_TRANSACTION_TRIES)):
            try:
                async with self._connections.transaction() as fetch:
                    new = await insert_events(fetch, events, self._limits)
                    if new and by is not None:
                        record = operators.publishing_record(by, events, new)
                        await insert_events(fetch, [record], self._limits)
                    return new
            except asyncpg.DeadlockDetectedError:
                if not left:
                    raise
        raise AssertionError  # unreachable: the last try raised or returned

    async def close(self) -> None:
        """Wait until all submitted events are committed."""
        await self._group.close()

    async def _flush(self, batch: list[PreparedEvent]) -> Sequence[bool | EventConflict]:
        with group_commit_insert(
            [prepared.span for prepared in batch if prepared.span], len(batch)
        ):
            results = await insert_each(self._connections.publishing.fetch, batch)
        counters.published.add(results.count(True))
        return results
