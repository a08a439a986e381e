"""What routes may ask for; none of it waits, and what is not async costs a thread each time."""

from typing import Annotated

import httpx2
from fastapi import Depends
from fastapi.requests import HTTPConnection

from ..config import Settings
from ..core.deps import ReflexDeps
from ..infra.store import EventStore
from ..runtime import Service
from .hub import Hub


def settings_of(connection: HTTPConnection) -> Settings:
    """Return the settings that the service was started with."""
    service: Service = connection.app.state.service
    return service.settings


async def get_service(connection: HTTPConnection) -> Service:
    """Return the running service, for requests and WebSockets alike."""
    return connection.app.state.service


# Each asks the application itself: a dependency of a dependency costs each request as much again.


async def get_store(connection: HTTPConnection) -> EventStore:
    """Return the event store."""
    return connection.app.state.store


async def get_http(connection: HTTPConnection) -> httpx2.AsyncClient:
    """Return the client for calls to other services."""
    return connection.app.state.http


async def get_deps(connection: HTTPConnection) -> ReflexDeps:
    """Return what agents need, for routes that run one."""
    service: Service = connection.app.state.service
    return service.deps.within("api", action_id="")


async def get_hub(connection: HTTPConnection) -> Hub:
    """Return what tells clients of new events."""
    return connection.app.state.hub


async def get_connection_settings(connection: HTTPConnection) -> Settings:
    """Return the settings that the service was started with."""
    return settings_of(connection)


ServiceDep = Annotated[Service, Depends(get_service)]
StoreDep = Annotated[EventStore, Depends(get_store)]
HubDep = Annotated[Hub, Depends(get_hub)]
SettingsDep = Annotated[Settings, Depends(get_connection_settings)]
