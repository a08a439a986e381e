"""The running service: open its parts in order, and close them in reverse order.

`open_service` runs both the API's process and the worker's; the worker has no routes.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import httpx2
import logfire

from .agent import run_agent
from .config import Settings
from .core.deps import ReflexDeps
from .core.events import LifecycleEvent
from .core.units import Seconds
from .infra.database import DATABASE_UNAVAILABLE, Database, open_database
from .infra.locks import ScopedLocks, open_locks
from .infra.model.guard import GuardedModel
from .infra.model.models import build_model
from .infra.pollers import Polling, run_poller
from .infra.process.shutdown import NotReleased, busy_threads
from .infra.process.supervise import Supervised
from .infra.readiness import Readiness
from .infra.retention import run_retention
from .infra.signatures import Verifier
from .infra.store import EventStore
from .infra.sweep import run_sweep
from .infra.telemetry.metrics import measure_queue
from .infra.text import as_template, describe, shorten
from .infra.timers import run_timers
from .preparation import prepare
from .resources import RESOURCES, open_resources
from .sources import Sources, load_sources, open_verifiers

HTTP_TIMEOUT: Seconds = 30.0
CANCEL_TIMEOUT: Seconds = 2.0  # for cancelled decisions to clean up
RELEASE_TIMEOUT: Seconds = 5.0  # for the release of their deliveries
STATEMENTS_TIMEOUT: Seconds = 8.0  # after AGENT_GRACE, for all waits of a stop for the database
ANNOUNCE_TIMEOUT: Seconds = 2.0  # for a lifecycle event: a stop must not wait for the database
MAX_DETAILS_BYTES = 10_000  # of a lifecycle event's text


@dataclass
class Service:
    """The parts of a running process."""

    settings: Settings
    database: Database
    http: httpx2.AsyncClient
    store: EventStore
    locks: ScopedLocks
    model: GuardedModel
    deps: ReflexDeps
    readiness: Readiness
    sources: Sources = field(default_factory=Sources)
    verifiers: dict[str, Verifier] = field(default_factory=dict[str, Verifier])
    """The verifiers of webhooks that have a secret, by name."""
    tasks: list[Supervised] = field(default_factory=list[Supervised])
    warnings: list[str] = field(default_factory=list[str])
    """Problems that an operator should correct although the service works."""

    def status(self) -> dict[str, Any]:
        """Return the state of models and tasks, for `/ready` and for heartbeats."""
        models = {
            name: {"name": name, **state._asdict()} for name, state in self.model.states().items()
        }
        return {
            "model": models[self.model.name],
            "models": models,
            "effects": "on" if self.settings.runs_effects else "off",
            "warnings": self.warnings,
            "tasks": {
                task.name: {"state": task.state, "restarts": task.restarts, "error": task.error}
                for task in self.tasks
            },
        }


@asynccontextmanager
async def open_service(
    settings: Settings, *, worker: bool, sources: Sources | None = None
) -> AsyncGenerator[Service]:
    """Run the service for the block; with `worker`, also its agent, timers and pollers.

    `sources` replace those of `agent/sources.py`.
    """
    sources = load_sources() if sources is None else sources
    verifiers = open_verifiers(sources, settings)
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
        deps = await stack.enter_async_context(open_resources(deps, RESOURCES))
        readiness = Readiness(database, store, locks)
        stack.push_async_callback(readiness.close)
        service = Service(
            settings, database, http, store, locks, model, deps, readiness, sources, verifiers
        )
        if worker:
            await stack.enter_async_context(_run_worker(service))
        try:
            yield service
        finally:
            grace = settings.agent_grace if worker else 0
            store.connections.abandon_after(grace + STATEMENTS_TIMEOUT)


@asynccontextmanager
async def _run_worker(service: Service) -> AsyncGenerator[None]:
    """Run the agent, timers, pollers and the sweep for the block, and stop them gracefully."""
    service.tasks = [
        Supervised(
            "agent",
            lambda: run_agent(service.store, service.deps, service.locks),
            lambda error: _announce(service, "error", f"agent: {describe(error)}"),
        ),
        Supervised("sweep", lambda: run_sweep(service.store)),
        Supervised("gauges", lambda: measure_queue(service.store.stats)),
    ]
    if not service.locks.across_processes:
        service.tasks.append(Supervised("other workers", lambda: _warn_of_other_workers(service)))
    if timers := service.settings.timers:
        service.tasks.append(Supervised("timers", lambda: run_timers(service.store, timers)))
    if retention := service.settings.log_retention:
        service.tasks.append(
            Supervised("retention", lambda: run_retention(service.store, retention))
        )
    if not service.settings.runs_effects:
        logfire.info("Effects are off: set EFFECTS=on to let tools act")
    if service.settings.pollers:
        service.tasks += _pollers(service)
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


def _pollers(service: Service) -> list[Supervised]:
    """Return a task for each poller; it goes on when the poller's own code fails."""
    return [
        Supervised(
            f"poller {name}",
            partial(
                run_poller,
                service.store,
                Polling(name, poller.schedule, partial(poller.poll, service.deps), poller.timeout),
            ),
        )
        for name, poller in service.sources.pollers.items()
    ]


async def _stop(
    service: Service, agent: "asyncio.Task[None]", others: "list[asyncio.Task[None]]"
) -> None:
    """Let running decisions finish within `AGENT_GRACE`; release the deliveries of the others.

    Raises:
        NotReleased: deliveries could not be released, so their leases have to expire.
    """
    service.store.drain()
    await asyncio.wait([agent], timeout=service.settings.agent_grace)
    if not agent.done():
        _report_unfinished(service)
    left = service.store.queue.in_flight()
    for task in (agent, *others):
        task.cancel()
    await asyncio.wait([agent, *others], timeout=CANCEL_TIMEOUT)
    if not await _release(service.store):
        raise NotReleased(
            f"{'1 event was' if len(left) == 1 else f'{len(left)} events were'} not released."
            f" Other workers claim what is left after EVENT_LEASE ({service.settings.event_lease:g} s)."
        )


def _report_unfinished(service: Service) -> None:
    """Log the decisions that exceed `AGENT_GRACE`, and the threads that may block them."""
    for delivery in service.store.queue.in_flight():
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
            return await store.queue.release_in_flight()
    except TimeoutError:
        return False


async def _warn_of_other_workers(service: Service) -> None:
    """Warn while another worker claims the same events, which locks in memory do not exclude."""
    while True:
        await asyncio.sleep(service.settings.event_lease / 3)
        others = await service.store.admin.other_workers()
        claiming = "1 other worker" if others == 1 else f"{others} other workers"
        claim = "claims" if others == 1 else "claim"
        warning = (
            f"{claiming} on this database {claim} the same events, which locks in memory do not"
            " exclude, so events may be handled out of order: stop all workers but one, or"
            " update the project with another answer to `locks`"
        )
        if others and not service.warnings:
            logfire.warn(as_template(warning))  # Logfire truncates values
        service.warnings[:] = [warning] if others else []


async def _announce(
    service: Service, action: Literal["started", "stopped", "error"], details: str | None = None
) -> None:
    shortened = details and shorten(details, MAX_DETAILS_BYTES)
    event = LifecycleEvent(source="service", action=action, details=shortened)
    try:
        async with asyncio.timeout(ANNOUNCE_TIMEOUT):
            await service.store.publish(event)
    except (*DATABASE_UNAVAILABLE, TimeoutError) as error:
        # Without a database, the service must still stop, and restart its agent.
        logfire.warn("{action} was not announced: {error}", action=action, error=repr(error))
