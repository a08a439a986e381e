"""New events for open pages, as at most one message a second with their number and the newest of them.

A page shows no more in a second, so what it does not show is counted, and neither encoded nor rendered.
"""

import asyncio
from collections.abc import AsyncIterator

from fastapi import APIRouter, HTTPException, Request
from sse_starlette import ServerSentEvent

from ..api.clients import Client
from ..api.deps import HubDep, SettingsDep, StoreDep
from ..api.errors import RETRY_AFTER, refuse_nul
from ..api.hub import Hub, TooManyClients
from ..api.routes.stream import EventStream
from ..api.samples import Sample
from ..api.sessions import headers_of, is_other_origin
from ..core.units import Seconds
from ..infra.store import EventStore, Stored
from ..infra.store.dedicated import CHECK
from ..infra.store.log import EventFilter
from ..infra.text import one_line
from .access import OTHER_ORIGIN, Viewer
from .reading import read
from .render import fragment

INTERVAL: Seconds = 1.0  # between two messages to a page
HEARTBEAT: Seconds = 5.0  # between two messages while there is no event; console.js expects it
BURST: Seconds = 0.1  # for events that come together to be shown together

router = APIRouter()


@router.get("/live", response_class=EventStream)
async def live(
    request: Request,
    client: Viewer,
    hub: HubDep,
    store: StoreDep,
    settings: SettingsDep,
    scope: str | None = None,
) -> EventStream:
    """Stream a message `changed` when events were accepted: with `scope`, their number, else the newest as rows.

    A message `alive` comes every few seconds while the log can be read.

    Raises:
        HTTPException: a page of another site asks, or the process serves the maximum number of clients.
    """
    refuse_nul(scope)
    if is_other_origin(headers_of(request.scope)):
        raise HTTPException(403, OTHER_ORIGIN)
    if hub.full:
        raise HTTPException(
            503, "API_MAX_CONNECTIONS is reached; try again later.", {"Retry-After": RETRY_AFTER}
        )
    event_filter = EventFilter(None, scope, client.within)
    changes = _changes(request, client, hub, store, event_filter)
    return EventStream(changes, send_timeout=settings.api_client_patience)


async def _changes(
    request: Request, client: Client, hub: Hub, store: EventStore, event_filter: EventFilter
) -> AsyncIterator[ServerSentEvent]:
    """Yield a message for each interval with new events."""
    try:
        async with hub.sample(event_filter) as sample:
            yield ServerSentEvent(comment="live")
            while True:
                if not await _changed(sample):
                    if await read(store.by_index(CHECK)) is not None:
                        yield ServerSentEvent("1", event="alive")
                    continue
                await asyncio.sleep(BURST)
                data = _data(request, client, event_filter, *sample.take())
                yield ServerSentEvent(data, event="changed")
                await asyncio.sleep(INTERVAL - BURST)
    except TooManyClients as error:  # others connected after the response began
        yield ServerSentEvent(one_line(str(error)), event="error")


async def _changed(sample: Sample) -> bool:
    """Return whether an event comes before the next heartbeat."""
    try:
        async with asyncio.timeout(HEARTBEAT):
            await sample.wait()
    except TimeoutError:
        return False
    return True


def _data(
    request: Request, client: Client, event_filter: EventFilter, count: int, newest: list[Stored]
) -> str:
    if event_filter.scope is not None:
        return str(count)
    more = count - len(newest)
    rows = fragment(request, client, "feed.html", events=newest, more=more)
    return " ".join(rows.split("\n"))  # a message ends at a line break
