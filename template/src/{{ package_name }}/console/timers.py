"""When timers tick and pollers run next, and which processes do the work."""

import os
import platform
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from typing import NamedTuple

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from ..api.clients import Client
from ..api.deps import ServiceDep
from ..api.routes.health import PollerStatus, Readiness, readiness
from ..core.units import Schedule
from ..infra.store.inspection import SubscriptionView, Worker
from ..infra.timers import next_slot
from ..runtime import Service
from ..schema_check import VERSIONS, head_of
from .access import Viewer
from .reading import UNREADABLE, read
from .render import page

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
    """None if it is not known."""


class Fleet(NamedTuple):
    """The subscribers, and the processes that claim for them."""

    subscriptions: list[SubscriptionView]
    workers: list[Worker]


@router.get("/timers")
async def show_timers(request: Request, client: Viewer, service: ServiceDep) -> HTMLResponse:
    """Show the next tick of each timer, pollers, tasks, processes and versions.

    A client with scopes of its own sees neither subscribers nor machines, which work for all scopes.
    """
    state = await readiness(service)
    reads = state.database == "ok" and not client.scopes
    fleet = await read(_fleet(service)) if reads else None
    now = service.store.now()
    return page(
        request,
        client,
        "timers.html",
        in_flight=[each for each in service.store.queue.in_flight() if client.includes(each.scope)],
        lease=service.settings.event_lease,
        operates=_operates(client),
        pollers=list(_pollers(service, state, now)),
        process=None if client.scopes else f"{socket.gethostname()} {os.getpid()}",
        state=state,
        subscriptions=fleet.subscriptions if fleet else [],
        timers=[
            Timer(name, schedule, _next(schedule, now))
            for name, schedule in sorted(service.settings.timers.items())
        ],
        versions={
            "Service": service.settings.version,
            "Schema": _schema_version(),
            "Python": platform.python_version(),
        },
        unreadable=None if fleet or client.scopes else UNREADABLE,
        workers=fleet.workers if fleet else [],
        works=service.settings.api_worker,
    )


@cache
def _schema_version() -> str:
    """Return the newest revision of the store; its migrations are read once."""
    return ", ".join(head_of((VERSIONS / "store" / "versions").glob("*.py")) or [])


def _operates(client: Client) -> bool:
    """Return whether a client may change what concerns all scopes."""
    return "operate" in client.roles and not client.scopes


async def _fleet(service: Service) -> Fleet:
    inspection = service.store.inspection
    return Fleet(await inspection.subscriptions(), await inspection.workers())


def _pollers(service: Service, state: Readiness, now: datetime) -> Iterator[PollerRow]:
    for name, poller in sorted(service.sources.pollers.items()):
        next_at = _next(poller.schedule, now)
        yield PollerRow(name, poller.schedule, next_at, state.pollers.get(name))


def _next(schedule: Schedule, now: datetime) -> datetime:
    _, due = next_slot(schedule, now.timestamp())
    return datetime.fromtimestamp(due, UTC)
