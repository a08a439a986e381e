"""Erases a scope, after its name was typed: this cannot be undone."""

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import HTMLResponse

from ..api.clients import Client
from ..api.deps import ServiceDep
from ..api.errors import refuse_nul
from ..api.sessions import CONSOLE_PATH
from ..infra.store.erasable import Bound, Erasable
from ..infra.store.erase import select
from ..runtime import Service
from .access import FormOf, OperatorOf
from .confirming import Confirmation, ask
from .events import EVENTS_PATH
from .flash import redirect_with_flash
from .navigation import url
from .text import count, number, plain

CONSEQUENCE = (
    "What these events say is overwritten, with the actions that repeat it, dead letters, notes and journals of the"
    " scope, and those that arrive until it is done. Ids, types, times and causes stay. Backups keep what they have."
    " Nobody can undo this."
)

COUNTED = Bound(events=100_000, seconds=2.0)
"""What is counted before a person confirms: the erasure itself reads the whole log."""

router = APIRouter()


@router.get("/do/erase")
async def ask_to_erase(
    request: Request, client: OperatorOf, service: ServiceDep, scope: str = ""
) -> HTMLResponse:
    """Ask whether to erase a scope, with the number of its events."""
    found = await _count(service, client, scope)
    return ask(request, client, _confirmation(scope, found))


@router.post("/do/erase")
async def erase(
    request: Request, client: OperatorOf, service: ServiceDep, form: FormOf
) -> Response:
    """Erase a scope if its name was typed."""
    scope, typed = form.get("scope"), form.get("typed")
    if _as_typed(typed) != _as_typed(scope):
        found = await _count(service, client, scope)
        problem = f"{typed[:50]!r} is not the name of the scope: nothing was done."
        asked = _confirmation(scope, found, problem, typed)
        return ask(request, client, asked, status=422)
    _require(client, scope)
    done = await service.store.admin.erase(select(scope, None), by=client.name)
    return redirect_with_flash(
        request, url(EVENTS_PATH, scope=scope), "erased" if done else "nothing", done
    )


def _as_typed(name: str) -> str:
    """Return a name as a person can type it: spaces as one, and invisible characters by their names."""
    return " ".join(plain(name).split())


def _require(client: Client, scope: str) -> None:
    refuse_nul(scope)
    if not scope or not client.includes(scope):
        raise HTTPException(404, f"There is no scope {scope!r}.")


async def _count(service: Service, client: Client, scope: str) -> Erasable:
    """Return the number of a scope's events.

    Raises:
        HTTPException: the scope does not exist for the client.
    """
    _require(client, scope)
    found = await service.store.admin.count_erasable(select(scope, None), COUNTED)
    if not found.known:
        raise HTTPException(404, f"There is no scope {scope!r}.")
    return found


def _confirmation(
    scope: str, found: Erasable, problem: str | None = None, typed: str = ""
) -> Confirmation:
    least = "" if found.complete else "at least "
    noun = f"{least}{count(found.events + found.repeating, 'event')}"
    facts: dict[str, object] = {"Scope": scope, "Events to erase": f"{least}{number(found.events)}"}
    if found.repeating:
        facts["Actions that repeat them"] = f"{least}{number(found.repeating)}"
    if found.erased:
        facts["Erased before"] = f"{least}{number(found.erased)}"
    return Confirmation(
        action=f"{CONSOLE_PATH}/do/erase",
        heading=f"Erase {noun} of a scope?",
        consequence=CONSEQUENCE,
        button=f"Erase {noun}",
        cancel=url(f"{CONSOLE_PATH}/scope", name=scope),
        fields={"scope": scope},
        facts=facts,
        danger=True,
        typed=scope,
        problem=problem,
        input=typed,
    )
