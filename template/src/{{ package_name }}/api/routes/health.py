"""Routes that report health and readiness."""

import asyncio
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from fastapi.requests import HTTPConnection
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from ... import COMMAND
from ...core.units import Seconds
from ...infra.database import DATABASE_UNAVAILABLE
from ...infra.pollers import poller_states
from ...infra.text import storable
from ...runtime import Service
from ..auth import client_of
from ..deps import ServiceDep

READY_TIMEOUT: Seconds = 2.0

router = APIRouter()


async def _may_read(connection: HTTPConnection) -> bool:
    """Return whether a client may see details, which quote errors; without a key, only the status is sent."""
    client = client_of(connection)
    return client is not None and "read" in client.roles


Details = Annotated[bool, Depends(_may_read)]


class TaskState(BaseModel):
    """The state of a supervised task."""

    state: Literal["running", "restarting", "stopped"]
    restarts: int
    error: str | None
    """The last error."""


class HealthStatus(BaseModel):
    """Whether all tasks of the process run."""

    status: Literal["healthy", "degraded"]
    timestamp: str


class Health(HealthStatus):
    """The health of the process, with its tasks."""

    tasks: dict[str, TaskState]


class ModelState(BaseModel):
    """The circuit breaker of one model; while it is open, events wait."""

    name: str
    """The name in `DEFAULT_MODEL` or in the agent's code."""
    breaker: Literal["closed", "open", "half-open"]
    retry_in: Seconds
    """Seconds until the next request to the model."""
    cause: Literal["outage", "misconfigured", "budget"] | None
    """Why the breaker is open: the model does not answer, a setting is wrong, or the hour's budget is spent."""
    error: str | None
    """The error of the last request; for `misconfigured`, with the remedy."""


class RetentionState(BaseModel):
    """How the last run of LOG_RETENTION went, in whichever process."""

    started_at: datetime
    ended_at: datetime | None
    deleted: int
    """The number of events that it deleted."""
    error: str | None
    """Why it failed."""


class PollerStatus(BaseModel):
    """The state of a poller, in all processes together."""

    state: Literal["ok", "failing"]
    failures: int
    """How often it failed since it last succeeded."""
    error: str | None
    """The error of its last run; null if it succeeded."""
    retry_in: Seconds | None
    """Seconds until the failed run is repeated."""
    succeeded_at: datetime | None


class JournalState(BaseModel):
    """The journal of decisions."""

    pinned: int
    """Scopes with an unfinished decision, which their other events wait for."""
    bytes: int
    """The size of the journal."""


class ReadinessStatus(BaseModel):
    """Whether the process is ready for work."""

    status: Literal["ready", "not ready"]


class Readiness(ReadinessStatus):
    """Whether the process is ready for work, with the state of its dependencies."""

    database: str
    model: ModelState
    """The model of `DEFAULT_MODEL`."""
    models: dict[str, ModelState]
    """All models that were used since the process started, by name."""
    effects: Literal["on", "off"]
    """Whether tools that act on the outside do so (`EFFECTS`)."""
    warnings: list[str]
    """Problems that an operator should correct although the service works."""
    tasks: dict[str, TaskState]
    retention: RetentionState | None = None
    """The last run of LOG_RETENTION; null if it is unset, or has not run, or the database is unavailable."""
    journal: JournalState | None = None
    """The journal of decisions; null if the database is unavailable."""
    pollers: dict[str, PollerStatus]
    """The pollers of `agent/sources.py` by name; a failing one does not make the process unready."""


@router.get("/health")
async def health(service: ServiceDep, details: Details = True) -> Health | HealthStatus:
    """Return 200 while the process lives; `degraded` while one of its tasks is being restarted.

    The tasks are included for clients with the role `read`.
    """
    pulse = HealthStatus(
        status="healthy" if _all_run(service) else "degraded",
        timestamp=service.store.now().isoformat(),
    )
    if not details:
        return pulse
    return Health(**pulse.model_dump(), tasks=service.status()["tasks"])


@router.get(
    "/ready",
    responses={503: {"model": Readiness | ReadinessStatus, "description": "Not ready for work"}},
)
async def ready(service: ServiceDep, details: Details = True) -> JSONResponse:
    """Return 200 if the database is available and the agent runs, else 503.

    The reason is included for clients with the role `read`.
    """
    found = await readiness(service) if details else await _ready_or_not(service)
    code = 200 if found.status == "ready" else 503
    return JSONResponse(found.model_dump(mode="json"), status_code=code)


async def readiness(service: Service) -> Readiness:
    """Return whether the process is ready for work, with the state of its dependencies."""
    database = await _database(service)
    up, state = database == "ok", service.status()
    state["warnings"] = [*state["warnings"], *(await _pauses(service) if up else ())]
    return Readiness(
        status=_status(service, database),
        database=database,
        retention=await _retention(service) if up else None,
        pollers=await _pollers(service) if up else {},
        journal=await _journal(service) if up else None,
        **state,
    )


async def _ready_or_not(service: Service) -> ReadinessStatus:
    return ReadinessStatus(status=_status(service, await _database(service)))


def _status(service: Service, database: str) -> Literal["ready", "not ready"]:
    # The model does not count: events are accepted while it is unavailable.
    return "ready" if database == "ok" and _all_run(service) else "not ready"


def _all_run(service: Service) -> bool:
    return all(task.state == "running" for task in service.tasks)


async def _retention(service: Service) -> RetentionState | None:
    if service.settings.log_retention is None:
        return None
    with suppress(*DATABASE_UNAVAILABLE, TimeoutError):
        async with asyncio.timeout(READY_TIMEOUT):
            if (run := await service.store.admin.last_pruning()) is not None:
                return RetentionState(**run._asdict())
    return None


async def _journal(service: Service) -> JournalState | None:
    with suppress(*DATABASE_UNAVAILABLE, TimeoutError):
        async with asyncio.timeout(READY_TIMEOUT):
            return JournalState(**(await service.store.journal.size())._asdict())
    return None


async def _pauses(service: Service) -> list[str]:
    """Return a warning for each subscriber that is paused."""
    with suppress(*DATABASE_UNAVAILABLE, TimeoutError):
        async with asyncio.timeout(READY_TIMEOUT):
            return [
                f"{pause}, so its events wait: resume it by `{COMMAND} resume {pause.subscriber}`"
                for pause in await service.store.admin.pauses()
            ]
    return []


async def _pollers(service: Service) -> dict[str, PollerStatus]:
    try:
        async with asyncio.timeout(READY_TIMEOUT):
            states = await poller_states(service.store, service.sources.pollers)
    except (*DATABASE_UNAVAILABLE, TimeoutError):
        return {}  # the next check of the database has the reason
    return {
        name: PollerStatus(state="failing" if state.failures else "ok", **state._asdict())
        for name, state in states.items()
    }


async def _database(service: Service) -> str:
    problem = await service.readiness.problem(READY_TIMEOUT)
    return "ok" if problem is None else storable(f"unavailable: {problem}")
