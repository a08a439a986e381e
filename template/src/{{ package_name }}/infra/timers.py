"""Timers: events that time itself publishes, once in a fleet however many processes run.

A tick's id is made of the timer's name and the time it was due, and publishing an id twice changes
nothing. So every process publishes every tick, without a leader or a lock. Slots come from the
database's clock; ticks that nobody was there to publish are skipped, not made up for.
"""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime

import logfire

from ..core.events import TimerEvent
from ..core.types import Seconds
from .database import DATABASE_AWAY
from .store import EventStore

CLOCK = "SELECT extract(epoch FROM clock_timestamp())::float8 AS now"
AWAY_PAUSE: Seconds = 1.0


async def run_timers(store: EventStore, timers: Mapping[str, Seconds]) -> None:
    """Publish the ticks of all timers, given as names and intervals, until cancelled."""
    async with asyncio.TaskGroup() as group:
        for name, interval in timers.items():
            group.create_task(_run_timer(store, name, interval))


async def _run_timer(store: EventStore, name: str, interval: Seconds) -> None:
    while True:
        try:
            now: float = (await store.fetch(CLOCK))[0]["now"]
            slot = int(now // interval) + 1
            await asyncio.sleep(slot * interval - now)
            await store.publish(tick(name, interval, slot))
        except DATABASE_AWAY as error:
            logfire.warn("Timer {name} missed a tick: {error}", name=name, error=repr(error))
            await asyncio.sleep(AWAY_PAUSE)


def tick(name: str, interval: Seconds, slot: int) -> TimerEvent:
    """Return the event of one slot, counted in intervals since 1970: the same in every process."""
    return TimerEvent(
        id=f"timer:{name}:{slot}",
        source=f"timer:{name}",
        timestamp=datetime.fromtimestamp(slot * interval, UTC),
        timer_name=name,
        tick_count=slot,
    )
