"""What routes may ask for."""

from typing import Annotated

import httpx2
from fastapi import Depends
from fastapi.requests import HTTPConnection

from ..config import Settings
from ..core.deps import ReflexDeps
from ..infra.store import EventStore
from ..runtime import Service
from .hub import Hub


async def get_service(connection: HTTPConnection) -> Service:
    """Return the running service, for requests and WebSockets alike."""
    return connection.app.state.service


async def get_store(service: Annotated[Service, Depends(get_service)]) -> EventStore:
    """Return the event store."""
    return service.store


async def get_http(service: Annotated[Service, Depends(get_service)]) -> httpx2.AsyncClient:
    """Return the client for calls to other services."""
    return service.http


async def get_deps(service: Annotated[Service, Depends(get_service)]) -> ReflexDeps:
    """Return what agents need, for routes that run one."""
    return service.deps.within("api", action_id="")


async def get_hub(connection: HTTPConnection) -> Hub:
    """Return what tells clients of new events."""
    return connection.app.state.hub


async def get_connection_settings(service: Annotated[Service, Depends(get_service)]) -> Settings:
    """Return the settings that the service was started with."""
    return service.settings


ServiceDep = Annotated[Service, Depends(get_service)]
StoreDep = Annotated[EventStore, Depends(get_store)]
HubDep = Annotated[Hub, Depends(get_hub)]
SettingsDep = Annotated[Settings, Depends(get_connection_settings)]
