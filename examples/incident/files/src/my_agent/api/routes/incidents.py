"""A route that lists our incidents."""

from typing import Annotated

from fastapi import APIRouter, Query

from ...agent.incidents import OpenIncident, newest_incidents
from ..auth import Reader
from ..deps import ServiceDep

router = APIRouter(tags=["incidents"])


@router.get("")
async def list_incidents(
    client: Reader, service: ServiceDep, limit: Annotated[int, Query(ge=1, le=100)] = 20
) -> list[OpenIncident]:
    """List the newest incidents of the services whose scopes the client may use."""
    async with service.deps.session() as session:
        return await newest_incidents(session, client.within, limit)
