"""Timers: events that time itself publishes, once in a fleet however many processes run.

A tick's id is made of the timer's name and the time it was due, and publishing an id twice changes
nothing. So every process publishes every tick, without a leader or a lock. Slots come from the
database's clock; ticks that nobody was there to publish are skipped, not made up for.
"""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime

import logfire
from cronsim import CronSim

from ..core.events import TimerEvent
from ..core.types import Schedule, Seconds
from .database import DATABASE_AWAY
from .store import EventStore

CLOCK = "SELECT extract(epoch FROM clock_timestamp())::float8 AS now"
AWAY_PAUSE: Seconds = 1.0
LONGEST_NAP: Seconds = 60.0  # then the database's clock is asked again: this machine's may drift


async def run_timers(store: EventStore, timers: Mapping[str, Schedule]) -> None:
    """Publish the ticks of all timers, given as names and schedules, until cancelled.

    Raises:
        RuntimeError: other code cancelled a timer.
    """
    running = [
        asyncio.create_task(_run_timer(store, name, schedule), name=f"timer {name}")
        for name, schedule in timers.items()
    ]
    try:
        # A group of tasks would not notice that one of them was cancelled by other code.
        ended, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for timer in running:
            timer.cancel()
        results = await asyncio.gather(*running, return_exceptions=True)
    failed = next((each for each in results if isinstance(each, Exception)), None)
    raise failed or RuntimeError(
        f"{', '.join(each.get_name() for each in ended)}: it was cancelled"
    )


async def _run_timer(store: EventStore, name: str, schedule: Schedule) -> None:
    while True:
        try:
            with logfire.suppress_instrumentation():  # looking at the clock is not news
                now: float = (await store.fetch(CLOCK))[0]["now"]
            slot, due = next_slot(schedule, now)
            await asyncio.sleep(min(due - now, LONGEST_NAP))
            if due - now <= LONGEST_NAP:
                await store.publish(tick(name, slot, due))
        except DATABASE_AWAY as error:
            logfire.warn("Timer {name} missed a tick: {error}", name=name, error=repr(error))
            await asyncio.sleep(AWAY_PAUSE)


def next_slot(schedule: Schedule, now: float) -> tuple[int, float]:
    """Return the number of the next slot and when it is due, in seconds since 1970.

    Slots are counted in intervals since 1970; those of a cron expression, in seconds.
    """
    if isinstance(schedule, str):
        due = next(CronSim(schedule, datetime.fromtimestamp(now, UTC))).timestamp()
        return int(due), due
    slot = int(now // schedule) + 1
    return slot, slot * schedule


def tick(name: str, slot: int, due: float) -> TimerEvent:
    """Return the event of one slot: the same in every process."""
    return TimerEvent(
        id=f"timer:{name}:{slot}",
        source=f"timer:{name}",
        timestamp=datetime.fromtimestamp(due, UTC),
        timer_name=name,
        tick_count=slot,
    )
