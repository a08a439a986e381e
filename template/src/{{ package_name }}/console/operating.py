"""Ticks of timers, and pauses of subscribers. They concern all scopes."""

from uuid import UUID

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import HTMLResponse

from ..api.clients import Client
from ..api.deps import ServiceDep
from ..api.sessions import CONSOLE_PATH
from ..core.events import new_id
from ..infra.store import EventConflict
from ..infra.store.pausing import PauseAction, UnknownSubscriber
from ..infra.store.stats import QueueStats
from ..infra.store.ticks import UnknownTimer
from ..runtime import Service
from .access import Form, FormOf, OperatorOf
from .confirming import Confirmation, ask, require_all_scopes
from .flash import redirect_with_flash
from .navigation import TIMERS_PATH, url
from .text import about, utc

CONSEQUENCES: dict[PauseAction, str] = {
    "pause": "Its workers claim nothing until it is resumed. What is in flight ends as usual. Events are still"
    " accepted, and wait.",
    "resume": "Its workers claim again at once, the oldest events first.",
}

router = APIRouter()


@router.get("/do/tick")
async def ask_to_tick(
    request: Request, client: OperatorOf, service: ServiceDep, timer: str = ""
) -> HTMLResponse:
    """Ask whether to publish a tick of a timer now."""
    require_all_scopes(client, "A tick")
    timers = service.settings.timers
    if timer not in timers:
        raise HTTPException(404, f"TIMERS has no timer {timer!r}.")
    asked = Confirmation(
        action=f"{CONSOLE_PATH}/do/tick",
        heading=f"Tick {timer} now?",
        consequence="One tick is published beside the schedule, which goes on unchanged.",
        button="Tick now",
        cancel=TIMERS_PATH,
        fields={"timer": timer, "key": new_id()},
        facts={"Timer": timer, "Schedule": _schedule(timers[timer])},
    )
    return ask(request, client, asked)


@router.post("/do/tick")
async def tick(request: Request, client: OperatorOf, service: ServiceDep, form: FormOf) -> Response:
    """Publish a tick, once for each page that asked."""
    require_all_scopes(client, "A tick")
    try:
        event = await service.store.admin.tick(form.get("timer"), client.name, _key(form))
    except UnknownTimer as error:
        raise HTTPException(404, f"{error}.") from error
    except EventConflict:
        return redirect_with_flash(request, TIMERS_PATH, "ticked")
    return redirect_with_flash(request, url(f"{CONSOLE_PATH}/event", id=event.id), "ticked")


def _key(form: Form) -> str:
    """Return the id that the form was made with; a new one if it has none."""
    try:
        return str(UUID(form.get("key")))
    except ValueError:
        return new_id()


def _schedule(value: str | float) -> str:
    return value if isinstance(value, str) else f"every {value:g} s"


@router.get("/do/pause")
async def ask_to_pause(
    request: Request, client: OperatorOf, service: ServiceDep, subscriber: str = ""
) -> HTMLResponse:
    """Ask whether to pause a subscriber."""
    return await _ask(request, client, service, "pause", subscriber)


@router.get("/do/resume")
async def ask_to_resume(
    request: Request, client: OperatorOf, service: ServiceDep, subscriber: str = ""
) -> HTMLResponse:
    """Ask whether to resume a subscriber."""
    return await _ask(request, client, service, "resume", subscriber)


async def _ask(
    request: Request, client: Client, service: Service, action: PauseAction, subscriber: str
) -> HTMLResponse:
    require_all_scopes(client, "A pause")
    stats = await _stats(service, subscriber)
    question = f"{action.capitalize()} {subscriber}"
    asked = Confirmation(
        action=f"{CONSOLE_PATH}/do/{action}",
        heading=f"{question}?",
        consequence=CONSEQUENCES[action],
        button=question,
        cancel=TIMERS_PATH,
        fields={"subscriber": subscriber},
        facts=_facts(stats),
        possible=(stats.paused_at is None) == (action == "pause"),
    )
    return ask(request, client, asked)


@router.post("/do/pause")
async def pause(
    request: Request, client: OperatorOf, service: ServiceDep, form: FormOf
) -> Response:
    """Pause a subscriber."""
    return await _set(request, client, service, "pause", form.get("subscriber"))


@router.post("/do/resume")
async def resume(
    request: Request, client: OperatorOf, service: ServiceDep, form: FormOf
) -> Response:
    """Resume a subscriber."""
    return await _set(request, client, service, "resume", form.get("subscriber"))


async def _set(
    request: Request, client: Client, service: Service, action: PauseAction, subscriber: str
) -> Response:
    require_all_scopes(client, "A pause")
    admin = service.store.admin
    change = admin.pause if action == "pause" else admin.resume
    try:
        changed = await change(subscriber, client.name)
    except UnknownSubscriber as error:
        raise HTTPException(404, f"{error}.") from error
    done = "paused" if action == "pause" else "resumed"
    return redirect_with_flash(request, TIMERS_PATH, done if changed else "unchanged")


async def _stats(service: Service, subscriber: str) -> QueueStats:
    """Return the counts of a subscriber.

    Raises:
        HTTPException: it does not exist.
    """
    for each in await service.store.admin.stats():
        if each.subscriber == subscriber:
            return each
    raise HTTPException(404, f"There is no subscriber {subscriber!r}.")


def _facts(stats: QueueStats) -> dict[str, str]:
    state = "claims events"
    if stats.paused_at is not None:
        state = f"paused since {utc(stats.paused_at)} by {stats.paused_by}"
    counts = {"Pending": stats.depth, "In flight": stats.in_flight, "Held": stats.held}
    named = {name: about(count) for name, count in counts.items()}
    return {"Subscriber": stats.subscriber, "State": state, **named}
