"""The page of one decision, finished or under way: its events, transcript, effects, output and price."""

from datetime import datetime
from typing import Annotated, Literal, NamedTuple

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import HTMLResponse

from ..api.clients import Client
from ..api.deps import SettingsDep, StoreDep
from ..api.errors import refuse_nul
from ..api.sessions import CONSOLE_PATH
from ..core.events import ActionEvent, EventMeta
from ..core.units import Seconds
from ..infra.store import EventStore, Stored
from ..infra.store.inspection import DecisionView
from .access import Viewer
from .navigation import url
from .outline import outline
from .render import page
from .transcript import effects_of, transcribe, usage_of

MAX_COVERED = 50  # covered events on the page, the newest
UNKNOWN_DECISION = (
    "No decision of this id is known: no action has it, and the journal has no step of it."
)
TRACE_LENGTH = 32  # characters of the id of a W3C trace

router = APIRouter()


class Covered(NamedTuple):
    """The covered events that a page shows."""

    events: list[Stored]
    absent: list[str]
    """Ids that are no longer in the log."""
    total: int
    """The number of all."""
    scope_page: str
    """The address of the axis that has them."""


@router.get("/decision")
async def show_decision(
    request: Request, client: Viewer, store: StoreDep, settings: SettingsDep, id: str
) -> HTMLResponse:
    """Show a decision by the id of its action.

    Raises:
        HTTPException: it is not known, or the client may not see its scope.
    """
    view = await _find(store, client, id)
    action, steps = view.action, transcribe(view.units)
    return page(
        request,
        client,
        "decision.html",
        action=action,
        attempts=view.attempts,
        covered=_covered(view),
        effects=list(effects_of(steps)),
        here=url(f"{CONSOLE_PATH}/decision", id=view.action_id),
        output=outline(action.output) if isinstance(action, ActionEvent) else None,
        is_action=isinstance(action, ActionEvent),
        retention=settings.decision_retention,
        state=state_of(view),
        steps=steps,
        took=_took(view, store.now()),
        trace_id=_trace_id(view),
        usage=usage_of(view.units),
        view=view,
    )


@router.get("/decision/step")
async def show_step(
    request: Request,
    client: Viewer,
    store: StoreDep,
    id: str,
    number: Annotated[int, Query(ge=1, le=1_000)],
) -> HTMLResponse:
    """Show one step of a decision's transcript with its whole texts.

    Raises:
        HTTPException: it is not known, or the client may not see its scope.
    """
    view = await _find(store, client, id)
    steps = transcribe(view.units, number)
    if not steps:
        raise HTTPException(404, f"The journal has no step {number} of this decision.")
    return page(request, client, "step.html", step=steps[0], view=view)


async def _find(store: EventStore, client: Client, action_id: str) -> DecisionView:
    refuse_nul(action_id)
    view = await store.inspection.decision(action_id, within=client.within)
    if view is None:
        raise HTTPException(404, UNKNOWN_DECISION)
    return view


def state_of(view: DecisionView) -> Literal["acted", "under way", "stopped", "ended"]:
    """Return how far a decision is: `stopped` waits for a retry of its dead letter; `ended` did not act."""
    if view.action is not None:
        return "acted"
    if view.pinned:
        return "under way"
    return "ended" if view.begun_at is None else "stopped"


def _covered(view: DecisionView) -> Covered:
    events = [each for each in view.covers if not isinstance(each, str)]
    absent = [each for each in view.covers if isinstance(each, str)]
    address = url(f"{CONSOLE_PATH}/scope", name=view.scope)
    return Covered(events[-MAX_COVERED:], absent[:MAX_COVERED], view.covered, address)


def _took(view: DecisionView, now: datetime) -> Seconds | None:
    """Return the time from the begin to the action, or until now, with the waits between attempts."""
    if view.begun_at is None or (view.action is None and not view.pinned):
        return None
    end = now if view.action is None else view.action.recorded_at
    return max((end - view.begun_at).total_seconds(), 0.0)


def _trace_id(view: DecisionView) -> str | None:
    """Return the id of the trace that the action was published in."""
    meta = view.action and view.action.meta
    if not isinstance(meta, EventMeta):
        return None
    found = (meta.traceparent or "").split("-")
    return found[1] if len(found) > 2 and len(found[1]) == TRACE_LENGTH else None
