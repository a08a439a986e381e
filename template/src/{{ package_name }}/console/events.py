"""The events of the log: a search, newest first, and the page of one event."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse

from ..api.clients import Client
from ..api.deps import ServiceDep
from ..api.errors import refuse_nul
from ..api.sessions import CONSOLE_PATH
from ..core.events import BaseEvent, event_types, public_types
from ..infra.store import ErasedEvent, Stored, UnreadableEvent
from ..infra.store.inspection import EventSearch
from ..infra.store.inspection.covers import covered_ids
from ..infra.store.inspection.units import as_object
from ..infra.store.operators import operator_source
from ..infra.store.why import explain
from .access import Viewer
from .exact import Exact, fits_line
from .form_fields import offered
from .navigation import Before, url
from .render import page
from .text import own_fields
from .waiting import failures

EVENTS_PATH = f"{CONSOLE_PATH}/events"
PAGE_LENGTH = 50  # events
MAX_PAYLOAD_BYTES = 50_000  # of an event's page
MAX_WHOLE_BYTES = 2_000_000  # if a reader asks for the whole
MAX_COVERED = 50  # links to covered events
OPERATOR_TYPE = "operator.action"
COVERING_TYPES = frozenset({"agent.action", "agent.dropped"})

LINES = frozenset({"scope", "correlation", "text"})
"""The conditions that are entered as texts."""

router = APIRouter()


class Filter(NamedTuple):
    """The conditions of the form, as texts; an empty one does not filter."""

    type: str = ""
    scope: str = ""
    correlation: str = ""
    text: str = ""

    def search(self, client: Client) -> EventSearch:
        """Return the search of these conditions among the scopes of a client and its own records."""
        return EventSearch(
            types=[self.type] if self.type else None,
            scope=self.scope or None,
            correlation=self.correlation or None,
            text=self.text or None,
            within=client.within,
            operator=client.name,
        )


@router.get("/events")
async def show_events(
    request: Request,
    client: Viewer,
    service: ServiceDep,
    exact: Exact,
    type: str = "",
    scope: str = "",
    correlation: str = "",
    text: str = "",
    before: Before = None,
) -> HTMLResponse:
    """Show the newest events that match all conditions."""
    given = Filter(type, scope, correlation, text)._replace(
        **{name: exact[name] for name in LINES & exact.keys()}
    )
    refuse_nul(*given)
    what = given.search(client)
    found = await service.store.inspection.search(what, before=before, limit=PAGE_LENGTH)
    query = given._asdict()
    return page(
        request,
        client,
        "events.html",
        conditions=given,
        kept={name: each for name, each in query.items() if not fits_line(each)},
        query=query,
        filtered=any(given),
        found=found,
        heading=_heading(given),
        here=url(EVENTS_PATH, **query, before=before),
        newest=url(EVENTS_PATH, **query) if before is not None else None,
        older=url(EVENTS_PATH, **query, before=found.before) if found.before else None,
        operators=url(EVENTS_PATH, type=OPERATOR_TYPE),
        public=public_types(),
        types=offered(event_types(), given.type),
        watched=before is None and not given.text,
    )


def _heading(given: Filter) -> str:
    if given == Filter(type=OPERATOR_TYPE):
        return "Operator actions"
    return "Found" if any(given) else "Newest first"


@router.get("/event")
async def show_event(
    request: Request, client: Viewer, service: ServiceDep, id: str = "", whole: bool = False
) -> HTMLResponse:
    """Show one event: its fields, its causes, and its state for each subscriber."""
    refuse_nul(id)
    event = await service.store.log.find(id) if id else None
    if event is None or not _may_see(client, event):
        raise HTTPException(404, f"The log has no event {id!r}.")
    why = await explain(service.store.by_index, event.id, service.settings)
    meta, payload = _meta(event), _payload(event)
    return page(
        request,
        client,
        "event.html",
        correlated=url(EVENTS_PATH, correlation=meta.get("correlation_id") or event.id),
        covers=covered_ids(payload) if event.type in COVERING_TYPES else [],
        decision=event.type == "agent.action",
        event=event,
        fates=why.fates if why else [],
        failures=list(failures(service, event.scope)),
        limit=MAX_WHOLE_BYTES if whole else MAX_PAYLOAD_BYTES,
        max_covered=MAX_COVERED,
        own_subscriber=service.store.subscriber,
        meta=meta,
        payload=payload,
        public=event.type in public_types() and isinstance(event, BaseEvent),
        whole=None if whole else url(f"{CONSOLE_PATH}/event", id=event.id, whole="true"),
    )


def _may_see(client: Client, event: Stored) -> bool:
    """Return whether a client may see an event: one of its scopes, or the record of its own action."""
    is_own = event.type == OPERATOR_TYPE and event.source == operator_source(client.name)
    return is_own or client.includes(event.scope)


def _meta(event: Stored) -> Mapping[str, Any]:
    """Return the meta of an event; of one that cannot be read, whatever is stored as such."""
    if isinstance(event, BaseEvent):
        return event.meta.model_dump(exclude_none=True)
    return as_object(event.meta)


def _payload(event: Stored) -> object:
    """Return the fields of an event's own type."""
    if isinstance(event, UnreadableEvent | ErasedEvent):
        return event.payload
    return dict(own_fields(event))
