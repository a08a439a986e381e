"""Our table of incidents: each is written in the transaction of the action that opens it."""

from collections.abc import Sequence
from datetime import datetime

from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from ..core.events import ActionEvent

OPEN = text("""
INSERT INTO incidents (id, scope, service, commit, severity, summary)
VALUES (:id, :scope, :service, :commit, :severity, :summary)
""")

NEWEST = text("""
SELECT id, service, commit, severity, summary, opened_at
  FROM incidents
 WHERE CAST(:within AS text[]) IS NULL OR scope ^@ ANY (CAST(:within AS text[]))
 ORDER BY opened_at DESC
 LIMIT :limit
""")


class Incident(BaseModel):
    """The output of an action: a deploy after which alerts fired."""

    service: str
    commit: str
    severity: str
    summary: str


class OpenIncident(Incident):
    """A row of the table."""

    id: str
    """The id of the action that opened it."""
    opened_at: datetime


async def record_incident(session: AsyncSession, action: ActionEvent) -> None:
    """Write the incident of an action, in the transaction that settles its events."""
    if action.trigger == "incident":
        incident = Incident.model_validate(action.output)
        row = {"id": action.id, "scope": action.scope, **incident.model_dump()}
        await session.execute(OPEN, row)


async def newest_incidents(
    session: AsyncSession, within: Sequence[str] | None, limit: int
) -> list[OpenIncident]:
    """Return the newest incidents of scopes that begin with one of `within`; of all scopes if it is None."""
    rows = await session.execute(NEWEST, {"within": within, "limit": limit})
    return [OpenIncident.model_validate(row) for row in rows.mappings()]
