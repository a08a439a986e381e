"""The running service: everything opened in order, and closed in reverse.

The API and the worker are the same service with and without doors; both live in `open_service`.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx2
import logfire

from .agent import run_agent
from .config import Settings
from .core.deps import ReflexDeps
from .core.events import LifecycleEvent
from .core.types import Seconds
from .current import is_current
from .infra.database import (
    DATABASE_AWAY,
    Database,
    StartupError,
    check_database,
    open_database,
)
from .infra.ending import NotReleased, busy_threads
from .infra.guard import GuardedModel
from .infra.locks import ScopedLocks, open_locks
from .infra.metrics import measure_queue
from .infra.models import build_model
from .infra.readiness import Readiness
from .infra.store import EventStore
from .infra.store.fitness import find_unfit
from .infra.supervise import Supervised
from .infra.text import as_template, describe, shorten
from .infra.timers import run_timers

HTTP_TIMEOUT: Seconds = 30.0
CANCEL_TIMEOUT: Seconds = 2.0  # for decisions that were cancelled to clean up
RELEASE_TIMEOUT: Seconds = 5.0  # for the database to take back what those left
ANNOUNCE_TIMEOUT: Seconds = 2.0  # a stop does not wait for a database that is silent
LONGEST_DETAILS = 10_000  # bytes of a lifecycle event's text
SWEEP_INTERVAL: Seconds = 60.0  # between looks for events that were held for too long
INDEX_PATIENCE: Seconds = 30.0  # development starts without an index that takes longer


type Say = Callable[[str], None]
"""Takes a sentence for whoever looks after the service."""


def log(sentence: str) -> None:
    """Log how far something has come."""
    logfire.info(as_template(sentence))


def warn(sentence: str) -> None:
    """Log what somebody should know of the schema."""
    logfire.warn(as_template(sentence))


@dataclass
class Service:
    """What a running process has."""

    settings: Settings
    database: Database
    http: httpx2.AsyncClient
    store: EventStore
    locks: ScopedLocks
    model: GuardedModel
    deps: ReflexDeps
    readiness: Readiness
    tasks: list[Supervised] = field(default_factory=list[Supervised])

    def condition(self) -> dict[str, Any]:
        """Return the state of models and tasks, for `/ready` and for heartbeats."""
        models = {
            name: {"name": name, **state._asdict()} for name, state in self.model.states().items()
        }
        return {
            "model": models[self.model.name],
            "models": models,
            "tasks": {
                task.name: {"state": task.state, "restarts": task.restarts, "error": task.error}
                for task in self.tasks
            },
        }


async def prepare(settings: Settings, *, say: Say = log, note: Say = warn) -> list[str]:
    """Make sure that the service can start, and return the migrations that this applied.

    Only development and tests apply any: elsewhere, migrating is a step of its own. `say` gets how far
    an index is, `note` what somebody should know of the schema.

    Raises:
        StartupError: it cannot; the message is one sentence.
    """
    _check_production(settings)
    if unfit := find_unfit():
        raise StartupError(unfit)
    build_model(settings)
    with logfire.suppress_instrumentation():  # looking is not news
        await check_database(settings)
        async with open_locks(settings):
            pass
    if await is_current(settings):
        return []
    from .migrations import IndexNotBuilt, check_schema, migrate  # load Alembic

    if not settings.lenient:
        await check_schema(settings, note=note)
        return []
    try:
        return await migrate(settings, again=False, patience=INDEX_PATIENCE, say=say, note=note)
    except IndexNotBuilt as error:
        note(str(error))
        return []


def _check_production(settings: Settings) -> None:
    if settings.lenient:
        return
    where = f"ENVIRONMENT={settings.environment} has production's rules"
    if not settings.api_keys:
        raise StartupError(f"{where} and needs API_KEYS: set at least one key for clients.")
    if settings.default_model == "offline":
        raise StartupError(f"{where} and needs a model: set DEFAULT_MODEL, e.g. openai:gpt-5-mini.")


@asynccontextmanager
async def open_service(settings: Settings, *, worker: bool) -> AsyncGenerator[Service]:
    """Run the service for the block: with `worker`, its agent and timers too."""
    await prepare(settings)
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(settings))
        http = await stack.enter_async_context(httpx2.AsyncClient(timeout=HTTP_TIMEOUT))
        locks = await stack.enter_async_context(open_locks(settings))
        store = EventStore(database.sessions, database.pool, settings=settings)
        stack.push_async_callback(store.close)
        model = GuardedModel(build_model(settings), settings, store.fetch)
        await stack.enter_async_context(model)
        deps = ReflexDeps(store, http, database.sessions, model, settings)
        readiness = Readiness(database, store, locks)
        stack.push_async_callback(readiness.close)
        service = Service(settings, database, http, store, locks, model, deps, readiness)
        if worker:
            await stack.enter_async_context(_working(service))
        yield service


@asynccontextmanager
async def _working(service: Service) -> AsyncGenerator[None]:
    """Run the agent, the timers and the sweep for the block; stop them gracefully."""
    service.tasks = [
        Supervised(
            "agent",
            lambda: run_agent(service.store, service.deps, service.locks),
            lambda error: _announce(service, "error", f"agent: {describe(error)}"),
        ),
        Supervised("sweep", lambda: _sweep(service)),
        Supervised("gauges", lambda: measure_queue(service.store.stats)),
    ]
    if timers := service.settings.timers:
        service.tasks.append(Supervised("timers", lambda: run_timers(service.store, timers)))
    await _announce(service, "started")
    supervised = service.tasks.copy()
    agent, *others = [asyncio.create_task(task.run()) for task in supervised]
    try:
        yield
    finally:
        for task in supervised:
            task.stop()
        try:
            await _stop(service, agent, others)
        finally:
            await _announce(service, "stopped")


async def _stop(
    service: Service, agent: "asyncio.Task[None]", others: "list[asyncio.Task[None]]"
) -> None:
    """Let decisions that are under way finish; what takes too long goes back to the queue.

    Raises:
        NotReleased: it could not be returned, so that its leases have to expire.
    """
    service.store.drain()
    await asyncio.wait([agent], timeout=service.settings.agent_grace)
    if not agent.done():
        _report_unfinished(service)
    for task in (agent, *others):
        task.cancel()
    await asyncio.wait([agent, *others], timeout=CANCEL_TIMEOUT)
    left = service.store.in_flight()  # of decisions that do not end though they were cancelled
    if not await _release(service.store):
        raise NotReleased(
            f"{len(left)} events were not returned to the queue: other workers take them in"
            f" {service.settings.event_lease:g} s, when their leases expire."
        )


def _report_unfinished(service: Service) -> None:
    """Name the decisions that outlast the grace, and the threads that they may wait for."""
    for delivery in service.store.in_flight():
        if delivery.blocks:
            logfire.error(
                "The decision on {delivery} did not end within AGENT_GRACE: it is cancelled",
                delivery=str(delivery),
            )
    for thread in busy_threads():
        logfire.error("Thread {thread} is still busy", thread=thread)


async def _release(store: EventStore) -> bool:
    try:
        async with asyncio.timeout(RELEASE_TIMEOUT):
            return await store.release_in_flight()
    except TimeoutError:
        return False


async def _sweep(service: Service) -> None:
    recalled: int | None = None
    while True:
        try:
            if recalled is None:
                recalled = await _recall(service.store)
            await service.store.release_aged(service.settings.context_max_age)
        except DATABASE_AWAY as error:
            logfire.warn("The sweep waits for the database: {error}", error=repr(error))
        await asyncio.sleep(SWEEP_INTERVAL)


async def _recall(store: EventStore) -> int:
    with logfire.suppress_instrumentation():  # looking is not news
        recalled = await store.recall()
    if recalled:
        logfire.warn("Recalled {count} events that waited for too long", count=recalled)
    return recalled


async def _announce(
    service: Service, action: Literal["started", "stopped", "error"], details: str | None = None
) -> None:
    said = details and shorten(details, LONGEST_DETAILS)
    event = LifecycleEvent(source="service", action=action, details=said)
    try:
        async with asyncio.timeout(ANNOUNCE_TIMEOUT):
            await service.store.publish(event)
    except (*DATABASE_AWAY, TimeoutError) as error:
        # A service whose database is away still has to stop, and to restart its agent.
        logfire.warn("{action} was not announced: {error}", action=action, error=repr(error))
