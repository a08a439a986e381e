"""Runs pollers, which ask other systems for events: each on its schedule, once however many processes run.

The table `pollers` has a row for each. A process claims a run there, so no other process does the same. A run that
fails is repeated after a pause that doubles each time, for all processes together. A run whose process dies is
repeated when its time is over. A failing poller disturbs neither the agent nor other pollers.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import logfire

from ..core.events import BaseEvent, Event
from ..core.units import Schedule, Seconds
from .database import DATABASE_UNAVAILABLE
from .source_ids import source_id
from .store import EventConflict, EventStore, InvalidEvent
from .telemetry.counters import ObservableCount
from .text import describe, shorten
from .timers import next_slot

UNAVAILABLE_PAUSE: Seconds = 1.0
REFUSED_PAUSE: Seconds = 0.1  # when another process has claimed the run
MAX_SLEEP: Seconds = 30.0  # then the row is read again: another process may have changed it
MIN_BACKOFF: Seconds = 1.0
MAX_BACKOFF: Seconds = 300.0
CANCEL_TIMEOUT: Seconds = 1.0  # for a cancelled run to end
RELEASE_TIMEOUT: Seconds = 0.5  # for the release of a run that the stop of the process interrupts
PUBLISH_TIMEOUT: Seconds = 60.0  # for publishing, after the run, before the run counts as lost
MAX_ERROR_BYTES = 1_000

failures = ObservableCount("pollers.failed", "{run}", "Runs of pollers that failed")

READ = """
SELECT extract(epoch FROM clock_timestamp())::float8 AS now,
       extract(epoch FROM p.resume_at)::float8 AS resume_at
  FROM (SELECT) AS one
  LEFT JOIN pollers p ON p.name = $1
"""
# Claims the run that is due at $2. Until it is settled, `resume_at` is the time at which it counts as lost.
CLAIM = """
INSERT INTO pollers AS p (name, due_at, resume_at)
VALUES ($1, to_timestamp($2::float8), clock_timestamp() + $3::float8 * interval '1 s')
    ON CONFLICT (name) DO UPDATE
   SET due_at = excluded.due_at, resume_at = excluded.resume_at
 WHERE p.due_at < excluded.due_at
   AND (p.resume_at IS NULL OR p.resume_at <= clock_timestamp())
RETURNING name
"""
# The next three settle a run, unless it was lost and another process has claimed a later one.
SUCCEED = """
UPDATE pollers SET resume_at = NULL, failures = 0, error = NULL, succeeded_at = clock_timestamp()
 WHERE name = $1 AND due_at = to_timestamp($2::float8)
"""
FAIL = f"""
UPDATE pollers
   SET failures = failures + 1, error = $3,
       resume_at = greatest(clock_timestamp(), due_at)
           + least({MIN_BACKOFF} * 2 ^ least(failures, 20), {MAX_BACKOFF}) * interval '1 s'
 WHERE name = $1 AND due_at = to_timestamp($2::float8)
"""  # noqa: S608 - interpolates constants only
RELEASE = """
UPDATE pollers SET resume_at = greatest(clock_timestamp(), due_at + interval '1 ms')
 WHERE name = $1 AND due_at = to_timestamp($2::float8)
"""
STATES = """
SELECT p.name, p.failures, p.error, p.succeeded_at,
       greatest(0, extract(epoch FROM p.resume_at - clock_timestamp()))::float8 AS retry_in
  FROM pollers p
 WHERE p.name = ANY ($1::text[])
"""

type Poll = Callable[[], Awaitable[Iterable[Event] | None]]


class PollFailed(Exception):
    """A run failed otherwise than by an error of its code. The message is the reason."""


@dataclass(frozen=True)
class Polling:
    """A poller with all that it needs."""

    name: str
    schedule: Schedule
    poll: Poll
    timeout: Seconds


class PollerState(NamedTuple):
    """The state of a poller, for all processes together."""

    failures: int = 0
    """How often it failed since it last succeeded."""
    error: str | None = None
    """The error of the last run; None if it succeeded."""
    retry_in: Seconds | None = None
    """Seconds until the failed run is repeated; None if it did not fail."""
    succeeded_at: datetime | None = None


async def run_poller(store: EventStore, polling: Polling) -> None:
    """Run a poller whenever it is due, until cancelled."""
    while True:
        try:
            with logfire.suppress_instrumentation():  # traces of waiting are noise
                due = await _claim(store, polling)
            if due is None:
                await asyncio.sleep(REFUSED_PAUSE)
            else:
                await _run(store, polling, due)
        except DATABASE_UNAVAILABLE as error:
            logfire.warn(
                "Poller {name} waits for the database: {error}",
                name=polling.name,
                error=repr(error),
            )
            await asyncio.sleep(UNAVAILABLE_PAUSE)


async def poller_states(store: EventStore, names: Iterable[str]) -> dict[str, PollerState]:
    """Return the state of each of these pollers."""
    wanted = list(names)
    with logfire.suppress_instrumentation():
        rows = {row["name"]: row for row in await store.fetch(STATES, wanted)} if wanted else {}
    return {
        name: PollerState(
            row["failures"],
            row["error"],
            row["retry_in"] if row["failures"] else None,
            row["succeeded_at"],
        )
        if (row := rows.get(name))
        else PollerState()
        for name in wanted
    }


async def _claim(store: EventStore, polling: Polling) -> float | None:
    """Wait until a run is due, and claim it; return when it was due, None if it is another process's."""
    [row] = await store.fetch(READ, polling.name)
    now: float = row["now"]
    resume_at: float | None = row["resume_at"]
    due = next_slot(polling.schedule, now)[1]
    if resume_at is not None:
        due = min(due, resume_at)
    await asyncio.sleep(min(due - now, MAX_SLEEP))
    if due - now > MAX_SLEEP:
        return None
    lost_after = polling.timeout + CANCEL_TIMEOUT + PUBLISH_TIMEOUT
    return due if await store.fetch(CLAIM, polling.name, due, lost_after) else None


async def _run(store: EventStore, polling: Polling, due: float) -> None:
    """Run a poller once, publish its events, and settle the run.

    If the database is unavailable, the run is repeated when it counts as lost.
    """
    try:
        with logfire.span("poller {name}", name=polling.name, _level="debug"):
            events = await _events_of(polling)
            for event in events if isinstance(events, list) else ():
                await _publish(store, polling, event)
    except asyncio.CancelledError:
        await _release(store, polling, due)
        raise
    if isinstance(events, list):
        await store.fetch(SUCCEED, polling.name, due)
        return
    failures.add(1)
    reason = shorten(describe(events), MAX_ERROR_BYTES)
    logfire.error(
        "Poller {name} failed: {error}", name=polling.name, error=reason, _exc_info=events
    )
    await store.fetch(FAIL, polling.name, due, reason)


async def _events_of(polling: Polling) -> list[Event] | Exception:
    """Return the events of one run, or the error of its code."""
    task = asyncio.create_task(_outcome_of(polling.poll), name=f"poller {polling.name}")
    try:
        await asyncio.wait([task], timeout=polling.timeout)
    finally:
        if late := not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=CANCEL_TIMEOUT)
    if late:
        return PollFailed(f"it took longer than its timeout of {polling.timeout:g} s")
    return task.result()


async def _outcome_of(poll: Poll) -> list[Event] | Exception:
    """Run the code of a poller to its end; return its events, or its error."""
    try:
        events = list(await poll() or ())
    except asyncio.CancelledError:
        return PollFailed("its own code cancelled it")
    except Exception as error:
        return error
    except BaseException as error:  # would end the process
        return PollFailed(f"{error!r} was raised in it")
    for event in events:
        if not isinstance(event, BaseEvent):  # pyright: ignore[reportUnnecessaryIsInstance] - owners' code may be untyped
            return PollFailed(f"it returned {type(event).__name__!r}: return a list of events")
    return events


async def _publish(store: EventStore, polling: Polling, event: Event) -> None:
    """Publish an event of a run; one that cannot be stored is left out, and the others are published."""
    if "id" in event.model_fields_set:
        name = source_id("poller", polling.name, event.id)
        event = event.model_copy(update={"id": name})
    try:
        await store.publish(event)
    except EventConflict:
        pass  # what is returned again may have changed: the first one is the event
    except InvalidEvent as error:
        logfire.error(
            "Poller {name} leaves out {id}: {error}",
            name=polling.name,
            id=event.id,
            error=str(error),
        )


async def _release(store: EventStore, polling: Polling, due: float) -> None:
    """Let the next process repeat a run at once that the stop of this one interrupted."""
    try:
        async with asyncio.timeout(RELEASE_TIMEOUT):
            await store.fetch(RELEASE, polling.name, due)
    except (*DATABASE_UNAVAILABLE, TimeoutError) as error:
        logfire.warn(
            "Poller {name} was not released: {error}", name=polling.name, error=repr(error)
        )
