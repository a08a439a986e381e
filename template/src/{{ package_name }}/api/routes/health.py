"""Is the process alive, and is it ready for work?"""

from typing import Literal

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from ...core.types import Seconds
from ...infra.text import storable
from ...runtime import Service
from ..deps import ServiceDep

READY_TIMEOUT: Seconds = 2.0

router = APIRouter()


class TaskState(BaseModel):
    """One task that the service keeps running."""

    state: Literal["running", "restarting", "stopped"]
    restarts: int
    error: str | None
    """Why it last failed."""


class Health(BaseModel):
    """The process and its tasks."""

    status: Literal["healthy", "degraded"]
    timestamp: str
    tasks: dict[str, TaskState]


class ModelState(BaseModel):
    """The circuit breaker before one model; while it is open, events wait."""

    name: str
    """As `DEFAULT_MODEL` or the agent's code names it."""
    breaker: Literal["closed", "open", "half-open"]
    retry_in: Seconds
    """How long the model is still left alone."""
    cause: Literal["outage", "misconfigured", "budget"] | None
    """Why no decision can use it: it does not answer, an operator must act, or the hour's budget is spent."""
    error: str | None
    """Why its last request failed; for `misconfigured`, also what to correct."""


class Readiness(BaseModel):
    """Whether to send work here."""

    status: Literal["ready", "not ready"]
    database: str
    model: ModelState
    """The one of `DEFAULT_MODEL`."""
    models: dict[str, ModelState]
    """All that were used since the process started, by name."""
    warnings: list[str]
    """What an operator should correct although the service works."""
    tasks: dict[str, TaskState]


@router.get("/health")
async def health(service: ServiceDep) -> Health:
    """Answer as long as the process lives; `degraded` while one of its tasks is being restarted."""
    return Health(
        status="healthy" if _all_run(service) else "degraded",
        timestamp=service.store.now().isoformat(),
        tasks=service.condition()["tasks"],
    )


@router.get("/ready", responses={503: {"model": Readiness, "description": "Not ready for work"}})
async def ready(service: ServiceDep) -> JSONResponse:
    """Answer 200 if the database can be used and the agent runs, else 503 with what is wrong."""
    database = await _database(service)
    # The model does not count: events are taken in and kept while it is away.
    well = database == "ok" and _all_run(service)
    status = "ready" if well else "not ready"
    answer = Readiness(status=status, database=database, **service.condition())
    return JSONResponse(answer.model_dump(), status_code=200 if well else 503)


def _all_run(service: Service) -> bool:
    return all(task.state == "running" for task in service.tasks)


async def _database(service: Service) -> str:
    problem = await service.readiness.problem(READY_TIMEOUT)
    return "ok" if problem is None else storable(f"unavailable: {problem}")
