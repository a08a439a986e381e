"""Retries and purges dead letters: one, a group, or all that match, after a page with their number.

The action concerns the dead letters that were counted, and no later ones: if more match when the form is sent,
nothing is done, and the page asks again.
"""

from datetime import timedelta
from typing import Annotated, NamedTuple

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import HTMLResponse

from ..api.clients import Client
from ..api.deps import ServiceDep
from ..api.sessions import CONSOLE_PATH
from ..infra.store.dead_letters import DeadLetter, DeadLetterSearch, LetterAction
from ..runtime import Service
from .access import FormOf, OperatorOf
from .confirming import Confirmation, ask
from .dead_letters import DEAD_LETTERS_PATH, LetterFilter, LetterFilterOf, sent_filter, time_of
from .flash import redirect_with_flash
from .navigation import url
from .text import count, number

SHOWN = 5  # dead letters on the page that asks
TICK = timedelta(microseconds=1)
CONSEQUENCES = {
    "retry": "Each is due again at once, with all its attempts.",
    "purge": "Nobody decides on them any more. The log keeps their events.",
}
LABELS = {
    "event": "Event",
    "type": "Type",
    "scope": "Scope",
    "error": "Error contains",
    "group": "Error",
    "since": "Dead since",
    "until": "Dead before",
}
"""The conditions in the order in which the page names them."""

router = APIRouter()


class Matching(NamedTuple):
    """What an action would concern now."""

    total: int
    newest: list[DeadLetter]


@router.get("/do/retry")
async def ask_to_retry(
    request: Request, client: OperatorOf, service: ServiceDep, given: LetterFilterOf
) -> HTMLResponse:
    """Ask whether to retry the matching dead letters."""
    return await _ask(request, client, service, "retry", given)


@router.get("/do/purge")
async def ask_to_purge(
    request: Request, client: OperatorOf, service: ServiceDep, given: LetterFilterOf
) -> HTMLResponse:
    """Ask whether to purge the matching dead letters."""
    return await _ask(request, client, service, "purge", given)


async def _sent(form: FormOf, service: ServiceDep) -> tuple[LetterFilter, int, str]:
    """Return the conditions of a form, the number that was confirmed, and the time of the newest of these."""
    sent = form.get("count")
    confirmed = int(sent) if sent.isascii() and sent.isdecimal() and len(sent) < 12 else -1
    return await sent_filter(form, service.store), confirmed, form.get("seen")


Sent = Annotated[tuple[LetterFilter, int, str], Depends(_sent)]


@router.post("/do/retry")
async def retry(request: Request, client: OperatorOf, service: ServiceDep, sent: Sent) -> Response:
    """Retry the dead letters that were confirmed."""
    return await _change(request, client, service, "retry", sent)


@router.post("/do/purge")
async def purge(request: Request, client: OperatorOf, service: ServiceDep, sent: Sent) -> Response:
    """Purge the dead letters that were confirmed."""
    return await _change(request, client, service, "purge", sent)


async def _change(
    request: Request,
    client: Client,
    service: Service,
    change: LetterAction,
    sent: tuple[LetterFilter, int, str],
) -> Response:
    """Change what was confirmed, unless more matches by now."""
    given, confirmed, seen = sent
    search, admin = given.search(client.within), service.store.admin
    if await admin.count_dead_letters(search) > confirmed:
        return await _ask(request, client, service, change, given, before=confirmed)
    done = await admin.change_matching(change, _until(search, seen), by=client.name)
    kind = {"retry": "retried", "purge": "purged"}[change] if done else "nothing"
    if given.event:
        return redirect_with_flash(
            request, url(f"{CONSOLE_PATH}/event", id=given.event), kind, done
        )
    return redirect_with_flash(request, url(DEAD_LETTERS_PATH, **given.query()), kind, done)


def _until(search: DeadLetterSearch, seen: str) -> DeadLetterSearch:
    """Return the search without what was dead-lettered after the newest dead letter that was seen."""
    newest = time_of("seen", seen)
    if newest is None:
        return search
    until = newest + TICK
    return search._replace(until=min(search.until, until) if search.until else until)


async def _ask(
    request: Request,
    client: Client,
    service: Service,
    change: LetterAction,
    given: LetterFilter,
    before: int | None = None,
) -> HTMLResponse:
    """Ask before a change; `before` is the number that was confirmed, if more match since."""
    found = await _matching(service, given.search(client.within))
    noun = count(found.total, "dead letter")
    seen = (
        {"count": found.total, "seen": found.newest[0].dead_at.isoformat()} if found.newest else {}
    )
    asked = Confirmation(
        action=f"{CONSOLE_PATH}/do/{change}",
        heading=f"{change.capitalize()} {noun}?",
        consequence=CONSEQUENCES[change],
        button=f"{change.capitalize()} {noun}",
        cancel=_origin(given),
        fields={**given._asdict(), **seen},
        facts={"Subscriber": given.subscriber, **_conditions(given)},
        letters=found.newest,
        danger=change == "purge",
        possible=found.total > 0,
        problem=None if before is None else _more(found.total, before),
    )
    return ask(request, client, asked, status=200 if before is None else 409)


async def _matching(service: Service, search: DeadLetterSearch) -> Matching:
    total = await service.store.admin.count_dead_letters(search)
    page = await service.store.admin.dead_letters(search, limit=SHOWN)
    return Matching(total, page.letters)


def _conditions(given: LetterFilter) -> dict[str, str]:
    texts = given._asdict()
    found = {label: texts[name] for name, label in LABELS.items() if texts[name]}
    return found if given.group != "" else {**found, LABELS["group"]: "none"}


def _more(total: int, before: int) -> str:
    if before < 0:
        return "The form does not name how many were confirmed: nothing was done."
    match_ = "matches" if total == 1 else "match"
    return f"{number(total)} {match_} now, and {number(before)} did when you were asked: nothing was done."


def _origin(given: LetterFilter) -> str:
    """Return the page from which the action was chosen."""
    if given.event:
        return url(f"{CONSOLE_PATH}/event", id=given.event)
    return url(DEAD_LETTERS_PATH, **given.query())
