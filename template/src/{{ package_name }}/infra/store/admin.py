"""The administration of a store: dead letters, pruning, erasure, statistics and subscriptions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..telemetry import counters
from . import erasable, erase, operators, pausing, prune, retention, stats, subscriptions
from .connections import claim_connection_prefix
from .dead_letter_admin import DeadLetterAdministration
from .insert import insert_events
from .ticks import extra_tick

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from ...core.events import Event
    from ...core.units import Seconds
    from .erasable import Bound, Erasable
    from .erase import Selection
    from .pausing import Pause, PauseAction
    from .retention import LastRun
    from .stats import DeliveryStatus, QueueStats


class Administration(DeadLetterAdministration):
    """What operators do. `subscriber` is this store's unless another is named.

    `within` selects dead letters whose scope begins with one of these prefixes. With `by`, the name of an
    operator, an `operator.action` records the change in the same transaction.
    """

    async def subscribers(self) -> list[str]:
        """Return the names of all subscribers."""
        return await subscriptions.subscribers(self._connections.readers.find)

    async def add_subscription(
        self, types: list[str] | None, since: datetime | None, now: Callable[[], datetime]
    ) -> None:
        """Register this store's subscriber; see `EventStore.add_subscription`."""
        fetch, long_fetch = self._connections.fetch, self._connections.long_fetch
        if await subscriptions.add_subscription(
            fetch, long_fetch, self._subscriber, types, since, now
        ):
            self._connections.notifier.notify()

    async def pause(self, subscriber: str, by: str) -> bool:
        """Let no worker claim for a subscriber, and return False if it is paused already.

        What is in flight ends as usual.

        Raises:
            UnknownSubscriber: it does not exist.
        """
        return await self._change_pause("pause", subscriber, by)

    async def resume(self, subscriber: str, by: str) -> bool:
        """Let the workers of a subscriber claim again, at once, and return False if it is not paused.

        Raises:
            UnknownSubscriber: it does not exist.
        """
        return await self._change_pause("resume", subscriber, by)

    async def _change_pause(self, action: PauseAction, subscriber: str, by: str) -> bool:
        async with self._connections.transaction() as fetch:
            if not await pausing.change(fetch, action, subscriber, by):
                return False
            record = operators.pausing_record(action, by, subscriber)
            await insert_events(fetch, [record], self._limits)
        counters.published.add(1)
        self._connections.notifier.notify()
        return True

    async def pauses(self) -> list[Pause]:
        """Return the subscribers that are paused."""
        return await pausing.read_pauses(self._connections.readers.find)

    async def tick(self, timer_name: str, by: str, key: str | None = None) -> Event:
        """Publish a tick of a timer now, beside its schedule, and return it.

        `key` names the request, so that it has one tick however often it is sent.

        Raises:
            UnknownTimer: TIMERS has none of this name.
            EventConflict: a request with this key was carried out before.
        """
        timers = self._connections.settings.timers
        async with self._connections.transaction() as fetch:
            tick = await extra_tick(fetch, timers, timer_name, key)
            record = operators.ticking_record(by, timer_name, tick.id)
            await insert_events(fetch, [tick, record], self._limits)
        counters.published.add(2)
        self._connections.notifier.notify()
        return tick

    async def count_prunable(self, older_than: Seconds) -> int:
        """Return how many events `prune` would delete."""
        return await prune.count_prunable(self._connections.long_fetch, older_than)

    async def prune(self, older_than: Seconds, by: str | None) -> int:
        """Delete old events that have no delivery; see `EventStore.prune`."""
        if by is not None:
            await self._record(operators.pruning_record(by, older_than))
        chunks = prune.prune(self._connections.long_fetch, older_than)
        return sum([count async for count in chunks])

    async def prune_if_due(self, older_than: Seconds) -> int | None:
        """Prune for the whole fleet if a run is due; see `retention.run_if_due`."""
        return await retention.run_if_due(self._connections, older_than)

    async def last_pruning(self) -> LastRun | None:
        """Return how the fleet's last run of pruning went; None before the first."""
        return await retention.last_run(self._connections.readers.find)

    async def count_erasable(self, what: Selection, bound: Bound | None = None) -> Erasable:
        """Return how many events `erase` would overwrite; with a bound, the least number."""
        return await erasable.count(self._connections, what, bound)

    async def erase(self, what: Selection, by: str | None) -> int:
        """Overwrite events and what repeats them; see `EventStore.erase`."""
        if by is not None:
            found = await self.count_erasable(what)
            if found.events + found.repeating:
                count = found.events + found.repeating
                await self._record(operators.erasing_record(by, count, what.keys))
        chunks = erase.erase(self._connections, what)
        return sum([count async for count in chunks])

    async def _record(self, action: Event) -> None:
        """Publish the record of what an operator is about to do."""
        async with self._connections.transaction() as fetch:
            await insert_events(fetch, [action], self._limits)
        counters.published.add(1)

    async def stats(self) -> list[QueueStats]:
        """Return each subscriber's counts; those above `stats.EXACT_COUNT_LIMIT` are estimates."""
        readers = self._connections.readers
        return await stats.stats(readers.find, readers.estimate)

    async def status(self, event_id: str) -> list[DeliveryStatus]:
        """Return the status of an event for each subscriber."""
        return await stats.status(self._connections.readers.find, event_id)

    async def other_workers(self) -> int:
        """Return how many other stores, in this process or others, claim for this subscriber."""
        [row] = await self._connections.readers.find(
            stats.COUNT_OTHER_WORKERS,
            claim_connection_prefix(self._subscriber),
            self._connections.claim_name,
        )
        return row["others"]
