"""The running service: everything opened in order, and closed in reverse.

The API and the worker are the same service with and without doors; both live in `open_service`.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
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
from .infra.database import (
    DATABASE_AWAY,
    Database,
    StartupError,
    check_database,
    open_database,
)
from .infra.guard import GuardedModel
from .infra.locks import ScopedLocks, open_locks
from .infra.metrics import measure_queue
from .infra.models import build_model
from .infra.store import EventStore
from .infra.supervise import Supervised
from .infra.timers import run_timers
from .migrations import IndexNotBuilt, Say, check_schema, log, migrate, warn

HTTP_TIMEOUT: Seconds = 30.0
SWEEP_INTERVAL: Seconds = 60.0  # between looks for events that were held for too long
INDEX_PATIENCE: Seconds = 30.0  # development starts without an index that takes longer


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
    tasks: list[Supervised] = field(default_factory=list[Supervised])

    def condition(self) -> dict[str, Any]:
        """Say how the model and the tasks are, for `/ready` and for whoever has no port to ask."""
        breaker = self.model.breaker
        return {
            "model": {
                "breaker": breaker.state,
                "retry_in": round(breaker.retry_in, 1),
                "error": breaker.error,
            },
            "tasks": {
                task.name: {"state": task.state, "restarts": task.restarts, "error": task.error}
                for task in self.tasks
            },
        }


async def prepare(settings: Settings, *, say: Say = log, note: Say = warn) -> list[str]:
    """Make sure that the service can start, and return the migrations that this applied.

    Production applies none: there, migrating is a step of its own. `say` gets how far an index is,
    `note` what somebody should know of the schema.

    Raises:
        StartupError: it cannot; the message is one sentence.
    """
    _check_production(settings)
    build_model(settings)
    with logfire.suppress_instrumentation():  # looking is not news
        await check_database(settings)
        async with open_locks(settings):
            pass
    if settings.environment == "production":
        await check_schema(settings, note=note)
        return []
    try:
        return await migrate(settings, again=False, patience=INDEX_PATIENCE, say=say, note=note)
    except IndexNotBuilt as error:
        note(str(error))
        return []


def _check_production(settings: Settings) -> None:
    if settings.environment != "production":
        return
    if not settings.api_keys:
        raise StartupError("Production needs API_KEYS: set at least one key for clients.")
    if settings.default_model == "offline":
        raise StartupError("Production needs a model: set DEFAULT_MODEL, e.g. openai:gpt-5-mini.")


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
        service = Service(settings, database, http, store, locks, model, deps)
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
            lambda error: _announce(service, "error", f"agent: {error}"),
        ),
        Supervised("sweep", lambda: _sweep(service)),
        Supervised("gauges", lambda: measure_queue(service.store.stats)),
    ]
    if timers := service.settings.timers:
        service.tasks.append(Supervised("timers", lambda: run_timers(service.store, timers)))
    await _announce(service, "started")
    agent, *others = [asyncio.create_task(task.run()) for task in service.tasks]
    try:
        yield
    finally:
        await _stop(service, agent, others)
        await _announce(service, "stopped")


async def _stop(
    service: Service, agent: "asyncio.Task[None]", others: "list[asyncio.Task[None]]"
) -> None:
    """Let decisions that are under way finish; what takes too long goes back to the queue."""
    service.store.drain()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.shield(agent), service.settings.agent_grace)
    for task in (agent, *others):
        task.cancel()
    await asyncio.gather(agent, *others, return_exceptions=True)


async def _sweep(service: Service) -> None:
    while True:
        await asyncio.sleep(SWEEP_INTERVAL)
        with logfire.suppress_instrumentation():  # looking is not news
            released = await service.store.release_aged(service.settings.context_max_age)
        if released:
            logfire.info("Released {count} events that were held for too long", count=released)


async def _announce(
    service: Service, action: Literal["started", "stopped", "error"], details: str | None = None
) -> None:
    event = LifecycleEvent(source="service", action=action, details=details)
    try:
        await service.store.publish(event)
    except DATABASE_AWAY as error:
        # A service whose database is away still has to stop, and to restart its agent.
        logfire.warn("{action} was not announced: {error}", action=action, error=repr(error))
