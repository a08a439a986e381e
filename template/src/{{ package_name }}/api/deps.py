"""Dependencies of routes. All are async: FastAPI runs a sync dependency in a thread."""

from typing import Annotated

import httpx2
from fastapi import Depends, Query
from fastapi.requests import HTTPConnection

from ..config import Settings
from ..core.deps import ReflexDeps
from ..infra.store import EventStore
from ..infra.store.log import MAX_FILTER_TYPES
from ..runtime import Service
from .hub import Hub
from .rate_limits import RateLimits


def settings_of(connection: HTTPConnection) -> Settings:
    """Return the settings that the service was started with."""
    service: Service = connection.app.state.service
    return service.settings


def rates_of(connection: HTTPConnection) -> RateLimits:
    """Return the rate limits of all clients."""
    return connection.app.state.rate_limits


async def get_service(connection: HTTPConnection) -> Service:
    """Return the running service, for requests and WebSockets alike."""
    return connection.app.state.service


# Each reads the application's state itself: a nested dependency doubles the cost.


async def get_store(connection: HTTPConnection) -> EventStore:
    """Return the event store."""
    return connection.app.state.store


async def get_http(connection: HTTPConnection) -> httpx2.AsyncClient:
    """Return the HTTP client for calls to other services."""
    return connection.app.state.http


async def get_deps(connection: HTTPConnection) -> ReflexDeps:
    """Return the dependencies of an agent, for routes that run one."""
    service: Service = connection.app.state.service
    return service.deps.within("api", action_id="")


async def get_hub(connection: HTTPConnection) -> Hub:
    """Return the hub that streams new events to clients."""
    return connection.app.state.hub


async def get_connection_settings(connection: HTTPConnection) -> Settings:
    """Return the settings that the service was started with."""
    return settings_of(connection)


ServiceDep = Annotated[Service, Depends(get_service)]
StoreDep = Annotated[EventStore, Depends(get_store)]
HubDep = Annotated[Hub, Depends(get_hub)]
SettingsDep = Annotated[Settings, Depends(get_connection_settings)]
Types = Annotated[list[str] | None, Query(max_length=MAX_FILTER_TYPES)]
"""The types of event to show; all if none is given."""
