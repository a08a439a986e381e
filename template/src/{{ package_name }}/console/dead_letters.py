"""The dead letters: filtered by subscriber, type, scope, error and time together, and grouped by error."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, NamedTuple

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse

from ..api.clients import Client
from ..api.deps import ServiceDep, StoreDep
from ..api.errors import refuse_nul
from ..api.routes.dlq import subscriber_of
from ..api.sessions import CONSOLE_PATH
from ..core.events import event_types
from ..infra.store import InvalidEvent
from ..infra.store.dead_letter_groups import DeadLetterGroup
from ..infra.store.dead_letters import DeadLetter, DeadLetterCursor, DeadLetterSearch
from ..runtime import Service
from .access import Form, Viewer
from .exact import Exact, fits_line, fits_time
from .form_fields import offered
from .navigation import url
from .render import page

DEAD_LETTERS_PATH = f"{CONSOLE_PATH}/dead-letters"
PAGE_LENGTH = 50  # dead letters
MAX_GROUPS = 12
FIRST_YEAR, LAST_YEAR = 1970, 9998  # so that a time in any zone has a time in UTC

LINES, TIMES = ("scope", "error"), ("since", "until")
CONDITIONS = frozenset({*LINES, *TIMES, "group", "event"})
"""The conditions that may come encoded."""

router = APIRouter()


class LetterFilter(NamedTuple):
    """The conditions of the form, as texts; an empty one does not filter."""

    subscriber: str
    type: str = ""
    scope: str = ""
    error: str = ""
    group: str | None = None
    """The error of a group; empty for those without an error, None for all."""
    since: str = ""
    until: str = ""
    event: str = ""
    """The id of one event."""

    def search(self, within: list[str] | None) -> DeadLetterSearch:
        """Return the search of these conditions among the scopes of a client.

        Raises:
            InvalidEvent: a time is not one, or a text contains NUL.
        """
        refuse_nul(*self)
        return DeadLetterSearch(
            self.subscriber,
            self.event or None,
            [self.type] if self.type else None,
            self.scope or None,
            self.error or None,
            time_of("since", self.since),
            time_of("until", self.until),
            within,
            self.group,
        )

    def query(self) -> dict[str, object]:
        """Return the parameters of an address with these conditions."""
        group = None if self.group is None else [self.group]  # an empty one has a meaning
        return {**self._asdict(), "group": group}

    def kept(self) -> dict[str, str]:
        """Return the conditions that no input of the page can hold, which its form sends with the others."""
        texts: dict[str, str] = {"event": self.event} if self.event else {}
        texts |= {name: getattr(self, name) for name in LINES if not fits_line(getattr(self, name))}
        texts |= {name: getattr(self, name) for name in TIMES if not fits_time(getattr(self, name))}
        return texts if self.group is None else {**texts, "group": self.group}

    @property
    def narrows(self) -> bool:
        """Whether any condition is given besides the subscriber."""
        return any(self[1:]) or self.group is not None


def time_of(name: str, text: str) -> datetime | None:
    """Return the time that a field names, in UTC unless it has a zone; None if the field is empty.

    Raises:
        InvalidEvent: it is not a time.
    """
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = datetime.min
    if not FIRST_YEAR < found.year <= LAST_YEAR:
        raise InvalidEvent(
            f"{name}: {text[:50]!r} is not a time: write one as 2026-01-31T12:00, in UTC"
        )
    return found if found.tzinfo else found.replace(tzinfo=UTC)


async def filter_of(
    subscriber: Annotated[str, Depends(subscriber_of)],
    exact: Exact,
    type: str = "",
    scope: str = "",
    error: str = "",
    group: str | None = None,
    since: str = "",
    until: str = "",
    event: str = "",
) -> LetterFilter:
    """Return the conditions of an address."""
    given = LetterFilter(subscriber, type, scope, error, group, since, until, event)
    return given._replace(**{name: exact[name] for name in CONDITIONS & exact.keys()})


async def sent_filter(form: Form, store: StoreDep) -> LetterFilter:
    """Return the conditions of a form.

    Raises:
        HTTPException: the subscriber does not exist.
    """
    subscriber = await subscriber_of(store, form.get("subscriber") or None)
    texts = {
        name: form.get(name) for name in LetterFilter._fields if name not in ("subscriber", "group")
    }
    group = form.get("group") if "group" in form else None
    return LetterFilter(subscriber, group=group, **texts)


LetterFilterOf = Annotated[LetterFilter, Depends(filter_of)]


class Listing(NamedTuple):
    """What the page lists; nothing by default."""

    total: int = 0
    """The number of all that match."""
    groups: Sequence[DeadLetterGroup] = ()
    """The largest groups."""
    grouped: int = 0
    """The dead letters of all groups: the newest that match."""
    more_groups: int = 0
    """How many further groups there are."""
    letters: Sequence[DeadLetter] = ()
    newest: str | None = None
    """The address of the first page; None if this is it."""
    older: str | None = None
    """The address of the next page; None if this is the last."""
    problem: str | None = None
    """Why nothing is listed."""


@router.get("/dead-letters")
async def show_dead_letters(
    request: Request,
    client: Viewer,
    service: ServiceDep,
    given: LetterFilterOf,
    before: str = "",
) -> HTMLResponse:
    """Show the newest dead letters that match all conditions, and their groups."""
    try:
        search = given.search(client.within)
        cursor = DeadLetterCursor.parse(before) if before else None
    except ValueError as error:
        return await _page(request, client, service, given, Listing(problem=str(error)), 422)
    listing = await _list(service, given, search, cursor)
    return await _page(request, client, service, given, listing)


async def _list(
    service: Service, given: LetterFilter, search: DeadLetterSearch, cursor: DeadLetterCursor | None
) -> Listing:
    """Read a page of dead letters; the first one has their groups, unless one is chosen."""
    admin, query = service.store.admin, given.query()
    total = await admin.count_dead_letters(search)
    found = await admin.dead_letters(search, cursor, PAGE_LENGTH)
    has_groups = cursor is None and given.group is None
    groups = await admin.dead_letter_groups(search) if has_groups else []
    return Listing(
        total,
        groups[:MAX_GROUPS],
        sum(each.count for each in groups),
        max(0, len(groups) - MAX_GROUPS),
        found.letters,
        newest=url(DEAD_LETTERS_PATH, **query) if cursor else None,
        older=url(DEAD_LETTERS_PATH, **query, before=str(found.before)) if found.before else None,
    )


async def _page(
    request: Request,
    client: Client,
    service: Service,
    given: LetterFilter,
    listing: Listing,
    status: int = 200,
) -> HTMLResponse:
    """Return the page with its form."""
    return page(
        request,
        client,
        "dead_letters.html",
        status=status,
        given=given,
        kept=given.kept(),
        query=given.query(),
        subscribers=await service.store.admin.subscribers(),
        types=offered(event_types(), given.type),
        **listing._asdict(),
    )
