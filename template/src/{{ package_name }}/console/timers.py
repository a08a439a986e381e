"""When timers tick and pollers run next, and which processes do the work."""

import asyncio
import os
import platform
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from ..api.clients import Client
from ..api.deps import ServiceDep
from ..api.routes.health import PollerStatus, Readiness, readiness
from ..core.units import Schedule, Seconds
from ..infra.database import DATABASE_UNAVAILABLE
from ..infra.store.inspection import SubscriptionView, Worker
from ..infra.timers import next_slot
from ..runtime import Service
from ..schema_check import VERSIONS, head_of
from .access import Viewer
from .render import page

READ_TIMEOUT: Seconds = 5.0

router = APIRouter()


class Timer(NamedTuple):
    """A timer with its next tick."""

    name: str
    schedule: Schedule
    next_at: datetime


class PollerRow(NamedTuple):
    """A poller with its next run."""

    name: str
    schedule: Schedule
    next_at: datetime
    state: PollerStatus | None


@router.get("/timers")
async def show_timers(request: Request, client: Viewer, service: ServiceDep) -> HTMLResponse:
    """Show the next tick of each timer, pollers, tasks, processes and versions."""
    state = await readiness(service)
    workers, subscriptions = await _workers(service) if state.database == "ok" else ([], [])
    now = service.store.now()
    return page(
        request,
        client,
        "timers.html",
        in_flight=[each for each in service.store.queue.in_flight() if client.includes(each.scope)],
        lease=service.settings.event_lease,
        operates=_operates(client),
        pollers=list(_pollers(service, state, now)),
        process=f"{socket.gethostname()} {os.getpid()}",
        state=state,
        subscriptions=subscriptions,
        timers=[
            Timer(name, schedule, _next(schedule, now))
            for name, schedule in sorted(service.settings.timers.items())
        ],
        versions={
            "Service": service.settings.version,
            "Schema": ", ".join(head_of((VERSIONS / "store" / "versions").glob("*.py")) or []),
            "Python": platform.python_version(),
        },
        workers=workers,
        works=service.settings.api_worker,
    )


def _operates(client: Client) -> bool:
    """Return whether a client may change what concerns all scopes."""
    return "operate" in client.roles and not client.scopes


async def _workers(service: Service) -> tuple[list[Worker], list[SubscriptionView]]:
    try:
        async with asyncio.timeout(READ_TIMEOUT):
            inspection = service.store.inspection
            return await inspection.workers(), await inspection.subscriptions()
    except (*DATABASE_UNAVAILABLE, TimeoutError):
        return [], []  # the first screen has the reason


def _pollers(service: Service, state: Readiness, now: datetime) -> Iterator[PollerRow]:
    for name, poller in sorted(service.sources.pollers.items()):
        next_at = _next(poller.schedule, now)
        yield PollerRow(name, poller.schedule, next_at, state.pollers.get(name))


def _next(schedule: Schedule, now: datetime) -> datetime:
    _, due = next_slot(schedule, now.timestamp())
    return datetime.fromtimestamp(due, UTC)
