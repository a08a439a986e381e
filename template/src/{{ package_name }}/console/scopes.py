"""The scopes, and the page of one: its events, what it holds, decisions and actions, on one axis of time."""

from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import HTMLResponse

from ..api.deps import ServiceDep, StoreDep
from ..api.errors import refuse_nul
from ..api.sessions import CONSOLE_PATH
from ..infra.store.inspection.scan import SCANNED_EVENTS
from ..infra.store.inspection.scope_list import MAX_HELD
from .access import Viewer
from .axis import arrange
from .exact import Exact
from .navigation import Before, url
from .render import page
from .waiting import obstacles

SCOPES = 50  # on one page
ENTRIES = 100  # on one page of an axis
MAX_SEARCH = 200  # characters
UNKNOWN_SCOPE = (
    "No scope of this name is known: nothing waits in it, it never acted, and none of the newest"
    f" {SCANNED_EVENTS:,} events is in it."
)

router = APIRouter()


@router.get("/scopes")
async def show_scopes(
    request: Request,
    client: Viewer,
    store: StoreDep,
    exact: Exact,
    search: Annotated[str, Query(max_length=MAX_SEARCH)] = "",
    after: str | None = None,
) -> HTMLResponse:
    """Show the scopes of the newest events first, then the others by name.

    Raises:
        HTTPException: `search` has a NUL character, or `after` is not a cursor.
    """
    search = exact.get("search", search)
    refuse_nul(search, after)
    try:
        found = await store.inspection.scopes(
            search, after=after, limit=SCOPES, within=client.within
        )
    except ValueError as error:
        raise HTTPException(422, str(error)) from None
    return page(
        request,
        client,
        "scopes.html",
        max_held=MAX_HELD,
        older=found.after and url(f"{CONSOLE_PATH}/scopes", search=search, after=found.after),
        first=url(f"{CONSOLE_PATH}/scopes", search=search) if after else None,
        here=url(f"{CONSOLE_PATH}/scopes", search=search, after=after),
        found=found,
        search=search,
    )


@router.get("/scope")
async def show_scope(
    request: Request,
    client: Viewer,
    service: ServiceDep,
    name: str,
    before: Before = None,
) -> HTMLResponse:
    """Show the state of a scope, and its axis below the event with the number `before`.

    Raises:
        HTTPException: the scope is not known, or the client may not see it.
    """
    refuse_nul(name)
    store = service.store
    state = await store.inspection.scope(name, within=client.within)
    if state is None:
        raise HTTPException(404, UNKNOWN_SCOPE)
    life = await store.inspection.scope_life(
        name, before=before, limit=ENTRIES, within=client.within
    )
    waits = state.held or state.pending or state.in_flight
    path = f"{CONSOLE_PATH}/scope"
    return page(
        request,
        client,
        "scope.html",
        before=before,
        days=arrange(life),
        here=url(path, name=name),
        life=life,
        max_held=MAX_HELD,
        obstacles=await obstacles(service, name) if waits and before is None else [],
        older=life.before and url(path, name=name, before=life.before),
        state=state,
    )
