"""Publishes the ticks of timers, each once, however many processes run.

The id of a tick consists of the timer's name and its slot, and publishing the same id again changes nothing. So
every process publishes every tick, without a leader or a lock. Slots follow the database's clock. Ticks that are due
while no process runs are skipped.
"""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime

import logfire
from cronsim import CronSim

from ..core.events import TICK_ID_PREFIX, TimerEvent
from ..core.units import Schedule, Seconds
from .database import DATABASE_UNAVAILABLE
from .store import EventConflict, EventStore

CLOCK = "SELECT extract(epoch FROM clock_timestamp())::float8 AS now"
UNAVAILABLE_PAUSE: Seconds = 1.0
MAX_SLEEP: Seconds = 60.0  # then the database's clock is read again, since this machine's may drift


async def run_timers(store: EventStore, timers: Mapping[str, Schedule]) -> None:
    """Publish the ticks of all timers, given by name and schedule, until cancelled.

    Raises:
        RuntimeError: other code cancelled a timer.
    """
    running = [
        asyncio.create_task(_run_timer(store, name, schedule), name=f"timer {name}")
        for name, schedule in timers.items()
    ]
    try:
        # A `TaskGroup` ignores that other code cancelled one of its tasks.
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
            with logfire.suppress_instrumentation():  # reading the clock needs no span
                now: float = (await store.fetch(CLOCK))[0]["now"]
            slot, due = next_slot(schedule, now)
            await asyncio.sleep(min(due - now, MAX_SLEEP))
            if due - now <= MAX_SLEEP:
                await store.publish(tick(name, slot, due))
        except DATABASE_UNAVAILABLE as error:
            logfire.warn("Timer {name} missed a tick: {error}", name=name, error=repr(error))
            await asyncio.sleep(UNAVAILABLE_PAUSE)
        except EventConflict as error:  # earlier releases accepted such an id from clients
            logfire.error("Timer {name} leaves out a tick: {error}", name=name, error=str(error))


def next_slot(schedule: Schedule, now: float) -> tuple[int, float]:
    """Return the next slot and when it is due, in seconds since 1970.

    A slot is the number of intervals since 1970; for a cron expression, the number of seconds.
    """
    if isinstance(schedule, str):
        due = next(CronSim(schedule, datetime.fromtimestamp(now, UTC))).timestamp()
        return int(due), due
    slot = int(now // schedule) + 1
    return slot, slot * schedule


def tick(name: str, slot: int, due: float) -> TimerEvent:
    """Return the event of a slot, which is equal in every process."""
    return TimerEvent(
        id=f"{TICK_ID_PREFIX}{name}:{slot}",
        source=f"timer:{name}",
        timestamp=datetime.fromtimestamp(due, UTC),
        timer_name=name,
        tick_count=slot,
    )
