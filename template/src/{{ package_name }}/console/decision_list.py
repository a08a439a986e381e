"""The latest decisions that acted, of all scopes or of one."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from ..api.deps import StoreDep
from ..api.errors import refuse_nul
from ..api.sessions import CONSOLE_PATH
from ..core.events import MAX_SCOPE_LENGTH
from ..infra.store.inspection import EventSearch
from .access import Viewer
from .navigation import Before, url
from .render import page

DECISIONS = 50  # on one page
ACTIONS = ("agent.action",)

router = APIRouter()


@router.get("/decisions")
async def show_decisions(
    request: Request,
    client: Viewer,
    store: StoreDep,
    scope: Annotated[str, Query(max_length=MAX_SCOPE_LENGTH)] = "",
    before: Before = None,
) -> HTMLResponse:
    """Show the latest actions, from one scan of the log of bounded length."""
    refuse_nul(scope)
    what = EventSearch(types=ACTIONS, scope=scope or None, within=client.within)
    found = await store.inspection.search(what, before=before, limit=DECISIONS)
    path = f"{CONSOLE_PATH}/decisions"
    return page(
        request,
        client,
        "decisions.html",
        found=found,
        here=url(path, scope=scope, before=before),
        newest=url(path, scope=scope) if before is not None else None,
        older=found.before and url(path, scope=scope, before=found.before),
        scope=scope,
    )
