"""Builds the ticks that operators publish beside the schedule of a timer."""

from collections.abc import Mapping
from datetime import UTC, datetime

from ...core.events import TICK_ID_PREFIX, TimerEvent, new_id
from ...core.units import Schedule
from ..database import Fetch

CLOCK = "SELECT extract(epoch FROM clock_timestamp())::float8 AS now"


class UnknownTimer(ValueError):
    """There is no such timer. The message names it, and those that exist."""


async def extra_tick(
    fetch: Fetch, timers: Mapping[str, Schedule], name: str, key: str | None = None
) -> TimerEvent:
    """Return a tick of now, by the database's clock, with the number of the slot that the time is in.

    The id of a scheduled tick ends in a number. This one ends in `by-` and `key`, by default a new id, so the two
    cannot be equal, and the schedule goes on as it would.

    Raises:
        UnknownTimer: the settings have no timer of this name.
    """
    if name not in timers:
        known = ", ".join(timers) or "none"
        raise UnknownTimer(f"timer: {name!r} is not in TIMERS, which has {known}")
    schedule = timers[name]
    now: float = (await fetch(CLOCK))[0]["now"]
    return TimerEvent(
        id=f"{TICK_ID_PREFIX}{name}:by-{key or new_id()}",
        source=f"timer:{name}",
        timestamp=datetime.fromtimestamp(now, UTC),
        timer_name=name,
        tick_count=int(now) if isinstance(schedule, str) else int(now // schedule),
    )
