"""The rendered project's event store, through its public face and with typed events."""

import asyncio
import resource
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime

import httpx2
import logfire
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

from my_agent.agent.loop import run_agent_loop
from my_agent.config import Settings
from my_agent.core.context import DecisionContext
from my_agent.core.deps import ReflexDeps
from my_agent.core.events import ErrorReportedEvent, Event
from my_agent.infra.database import open_database
from my_agent.infra.locks import open_locks
from my_agent.infra.model.offline import OfflineModel
from my_agent.infra.observability import configure_observability
from my_agent.infra.store import EventStore, Token
from my_agent.migrations import migrate

from ..conditions import batch_size
from ..gate import Outcome, Progress, gate
from . import PAYLOAD, SPEAK_EVERY

BATCH = batch_size()  # events that the batch handler takes at once
BATCHES = 4  # that may be in flight, as in the batch loop
PREFETCHED = 100  # events that a handler of one event at a time claims together, at most
SCOPES = 1_000  # where events belong to many

UNSETTLED = "SELECT FROM deliveries WHERE held_at IS NULL LIMIT 1"


def events(count: int, scopes: int = 0) -> list[ErrorReportedEvent]:
    """Make typed events, each with an id of its own, in their default scope or in so many."""
    return [
        ErrorReportedEvent(
            source="bench",
            scope=f"scope:{place % scopes}" if scopes else "",
            service=PAYLOAD["service"],
            message=PAYLOAD["message"],
        )
        for place in range(count)
    ]


@asynccontextmanager
async def opened(url: str) -> AsyncGenerator[EventStore]:
    """Open the store as the service does, with the settings of the environment."""
    settings = Settings(database_url=url)
    configure_observability(settings)
    async with open_database(settings) as database:
        store = EventStore(database.sessions, database.pool, settings=settings)
        try:
            await store.ack()  # of nothing: it opens the connection, as everybody's is at the start
            yield store
        finally:
            await store.close()


async def install(url: str, _: int) -> Outcome:
    """Create the schema."""
    start = await gate()
    await migrate(Settings(database_url=url))
    return Outcome(start, time.monotonic(), 0)


async def publish_one_by_one(url: str, count: int) -> Outcome:
    """Publish, each commit awaited before the next event."""
    async with opened(url) as store:
        waiting = events(count)
        await store.publish(events(1)[0])
        start = await gate()
        for event in waiting:
            await store.publish(event)
        return Outcome(start, time.monotonic(), count)


async def publish_concurrently(url: str, count: int) -> Outcome:
    """Publish from 16 tasks of one process, each awaiting its own."""
    async with opened(url) as store:

        async def produce(mine: list[ErrorReportedEvent]) -> None:
            for event in mine:
                await store.publish(event)

        waiting = events(count)
        await store.publish(events(1)[0])
        start = await gate()
        await asyncio.gather(*(produce(waiting[place::16]) for place in range(16)))
        return Outcome(start, time.monotonic(), count)


async def publish_in_bulk(url: str, count: int) -> Outcome:
    """Publish all in one call."""
    async with opened(url) as store:
        waiting = events(count)
        await store.publish_many(events(1))
        start = await gate()
        await store.publish_many(waiting)
        return Outcome(start, time.monotonic(), count)


async def fill(url: str, count: int) -> Outcome:
    """Leave a backlog for others to drain."""
    return await publish_in_bulk(url, count - 1)  # it publishes one to get warm


async def fill_scopes(url: str, count: int) -> Outcome:
    """Leave a backlog of many scopes."""
    async with opened(url) as store:
        start = await gate()
        await store.publish_many(events(count, SCOPES))
        return Outcome(start, time.monotonic(), count)


async def drain_prefetching(url: str, count: int) -> Outcome:
    """Handle one event at a time, each ack durable before the next starts; claim several at once."""
    return await _drain_in_turn(url, count, PREFETCHED)


async def drain_claiming_singly(url: str, count: int) -> Outcome:
    """Handle one event at a time, and claim it when the last one is acked."""
    return await _drain_in_turn(url, count, 1)


def in_flight(store: EventStore) -> int:
    """Return how many events the service's agent may have claimed."""
    return store.settings.agent_prefetch


async def _drain_in_turn(url: str, count: int, most: int) -> Outcome:
    async with opened(url) as store:
        progress = Progress(count)
        batch_size = min(most, in_flight(store))
        await gate()
        async with aclosing(store.subscribe(batch_size=batch_size)) as owed:
            async for _, token in owed:
                progress.begin()
                await store.ack(token)
                if progress.finish():
                    break
        return progress.outcome()


async def drain_by_tasks(url: str, count: int) -> Outcome:
    """Handle as many at once as the store gives: a task, and a durable ack, for each."""
    async with opened(url) as store:
        progress = Progress(count)
        await gate()

        async def handle(token: Token) -> None:
            await store.ack(token)
            if progress.finish():
                store.drain()

        async with (
            asyncio.TaskGroup() as group,
            aclosing(store.subscribe(None, in_flight(store))) as owed,
        ):
            async for _, token in owed:
                progress.begin()
                group.create_task(handle(token))
        return progress.outcome(peak_mb())


async def drain_by_batches(url: str, count: int) -> Outcome:
    """Handle many at once, and ack them together; the next ones are gathered meanwhile."""
    async with opened(url) as store:
        progress = Progress(count)
        taken = 0
        batch: list[Token] = []
        await gate()

        async def handle(batch: list[Token]) -> None:
            await store.ack(*batch)
            if progress.finish(len(batch)):
                store.drain()

        async with (
            asyncio.TaskGroup() as group,
            aclosing(store.subscribe(None, BATCHES * BATCH)) as owed,
        ):
            async for _, token in owed:
                progress.begin()
                batch.append(token)
                taken += 1
                if len(batch) == BATCH or taken == count:
                    group.create_task(handle(batch))
                    batch = []
        return progress.outcome()


async def drain_by_the_loop(url: str, count: int) -> Outcome:
    """Run the project's own reference loop: filter, context, and a trigger that does not fire."""
    return await _drain_by_the_loop(url, count)


async def _drain_by_the_loop(url: str, count: int, spans: SpanProcessor | None = None) -> Outcome:
    async with (
        opened(url) as store,
        httpx2.AsyncClient() as http,
        open_locks(store.settings) as locks,
    ):
        progress = Progress(count)
        decided = asyncio.Event()
        if spans is not None:
            provider = trace.get_tracer_provider()
            provider.add_span_processor(spans)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType] - Logfire's provider has it

        def everything(event: Event, ctx: DecisionContext) -> bool:
            return True

        async def trigger(ctx: DecisionContext, _: ReflexDeps) -> str | None:
            progress.begin()
            if progress.finish():
                decided.set()
            return None

        deps = ReflexDeps(store, http, store.sessions, OfflineModel(), store.settings)
        await gate()
        loop = asyncio.create_task(run_agent_loop(store, deps, everything, trigger, locks))
        await decided.wait()
        with logfire.suppress_instrumentation():
            while await store.fetch(UNSETTLED):
                await asyncio.sleep(0.002)
        progress.end = time.monotonic()
        store.drain()
        await loop
        return progress.outcome()


class SpanCount(SpanProcessor):
    """Counts the spans that were ended."""

    def __init__(self) -> None:
        self.ended = 0

    def on_end(self, span: ReadableSpan) -> None:
        """Count one."""
        self.ended += 1


async def count_spans_of_the_loop(url: str, count: int) -> Outcome:
    """Run the reference loop, and count what it traces."""
    spans = SpanCount()
    outcome = await _drain_by_the_loop(url, count, spans)
    return replace(outcome, figures={"spans": float(spans.ended)})


async def share_a_backlog(url: str, _: int) -> Outcome:
    """Drain by tasks, beside other workers, until nothing is left; say what was handled."""
    async with opened(url) as store:
        seen: dict[str, float] = {}
        start = 0.0
        ready = await gate()

        async def handle(event: Event, token: Token) -> None:
            if event.id in seen:
                raise AssertionError(f"{event.id} was handled twice by one worker")
            seen[event.id] = 0.0
            await store.ack(token)
            seen[event.id] = time.monotonic()

        async def stop_when_done() -> None:
            while await store.fetch("SELECT FROM deliveries LIMIT 1"):
                await asyncio.sleep(0.02)
            store.drain()

        async with (
            asyncio.TaskGroup() as group,
            aclosing(store.subscribe(None, in_flight(store))) as owed,
        ):
            group.create_task(stop_when_done())
            async for event, token in owed:
                start = start or time.monotonic()
                group.create_task(handle(event, token))
        start = start or ready  # it may have got nothing
        return Outcome(start, max(seen.values(), default=start), len(seen), seen)


async def listen(url: str, count: int) -> Outcome:
    """Handle what another process publishes, and note when."""
    async with opened(url) as store:
        start = await gate()
        handled = await listen_here(store, count)
        return Outcome(start, time.monotonic(), count, handled)


async def speak(url: str, count: int) -> Outcome:
    """Publish fifty events a second, and note when each was given to the store."""
    async with opened(url) as store:
        start = await gate()
        sent = await speak_here(store, count)
        return Outcome(start, time.monotonic(), count, sent)


async def speak_and_listen(url: str, count: int) -> Outcome:
    """Publish fifty events a second and handle them in the same process, as `serve` does."""
    async with opened(url) as store:
        start = await gate()
        listening = asyncio.create_task(listen_here(store, count))
        sent = await speak_here(store, count)
        handled = await listening
        delays = {name: handled[name] - sent[name] for name in sent}
        return Outcome(start, time.monotonic(), count, delays)


async def listen_here(store: EventStore, count: int) -> dict[str, float]:
    """Handle events and return when each was."""
    handled: dict[str, float] = {}
    async with aclosing(store.subscribe(batch_size=in_flight(store))) as owed:
        async for event, token in owed:
            handled[event.id] = time.monotonic()
            await store.ack(token)
            if len(handled) == count:
                break
    return handled


async def speak_here(store: EventStore, count: int) -> dict[str, float]:
    """Publish fifty events a second and return when each was given to the store."""
    sent: dict[str, float] = {}
    for event in events(count):
        await asyncio.sleep(SPEAK_EVERY)
        sent[event.id] = time.monotonic()
        await store.publish(event)
    return sent


async def replay(url: str, count: int) -> Outcome:
    """Read the whole log, in order."""
    async with opened(url) as store:
        start = await gate()
        read = 0
        async with aclosing(store.replay(datetime(2000, 1, 1, tzinfo=UTC))) as past:
            async for _ in past:
                read += 1
        return Outcome(start, time.monotonic(), read, peak_mb=peak_mb())


def peak_mb() -> float:
    """Return the most memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
