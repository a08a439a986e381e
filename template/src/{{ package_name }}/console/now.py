"""The first screen: whether the service is well, what waits, and what needs a person."""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from ..api.clients import Client
from ..api.deps import ServiceDep
from ..api.routes.health import ModelState, Readiness, readiness
from ..api.sessions import CONSOLE_PATH
from ..core.units import Seconds
from ..infra.model.budget import Spent
from ..infra.store import Stored
from ..infra.store.dead_letters import DeadLetterSearch
from ..infra.store.log import EventFilter
from ..infra.store.stats import QueueStats
from ..runtime import Service
from .access import Viewer
from .navigation import TIMERS_PATH, url
from .reading import UNREADABLE, read
from .render import page
from .text import about, count, duration

FEED = 20  # events on the page before new ones arrive
LONG_WAIT: Seconds = 60.0  # an event that waits longer needs a look
LONG_FAILURE: Seconds = 15.0  # decisions that fail for longer than the retries of one request

router = APIRouter()


class Attention(NamedTuple):
    """Something that a person should look at."""

    level: Literal["bad", "warn"]
    sentence: str
    href: str | None = None


class Queue(NamedTuple):
    """What is stored."""

    subscribers: list[QueueStats]
    """Empty for a client with scopes of its own: the counts cover all scopes."""
    events: list[Stored]
    spent: Spent | None
    """What the models spent for all scopes; None without a limit, or for a client with scopes of its own."""
    dead: int
    """The dead letters of a client with scopes of its own."""


@router.get("")
async def show_now(request: Request, client: Viewer, service: ServiceDep) -> HTMLResponse:
    """Show the state of the service, what needs a person, and the newest events."""
    found = await readiness(service)
    queue = await read(_queue(service, client)) if found.database == "ok" else None
    needs = [
        *_attention(found, service.warnings, client),
        *_waiting(queue, service.store.subscriber),
        *_failed_decisions(service, client),
    ]
    return page(
        request,
        client,
        "now.html",
        attention=sorted(needs, key=lambda each: each.level),  # bad, then warn
        events=queue.events if queue else [],
        journal_bytes=found.journal.bytes if found.journal else None,
        long_wait=LONG_WAIT,
        spent=queue.spent if queue else None,
        state=found,
        subscribers=queue.subscribers if queue else [],
        unreadable=None if queue else UNREADABLE,
    )


async def _queue(service: Service, client: Client) -> Queue:
    """Read the counts and the newest events; a client with scopes of its own sees no counts of others."""
    seen = EventFilter(None, None, client.within)
    store = service.store
    events = (await store.log.scan_page(seen, None, FEED)).events
    if client.scopes:
        own = DeadLetterSearch(store.subscriber, within=client.within)
        return Queue([], events, None, await store.admin.count_dead_letters(own))
    return Queue(await store.stats(), events, await service.model.budget.spent(), 0)


def _attention(state: Readiness, warnings: Sequence[str], client: Client) -> Iterator[Attention]:
    """Return what does not work, without pauses, which are counted among what waits; for a client with scopes of its own, only what its events wait for."""
    if state.database != "ok":
        yield Attention("bad", f"The database is {state.database}")
    for name, task in state.tasks.items():
        if task.state != "running":
            yield Attention("bad", f"The task {name} is {task.state}: {task.error or 'no error'}")
    for model in state.models.values():
        if model.breaker != "closed":
            yield _model_attention(model)
    if client.scopes:
        return
    for name, poller in state.pollers.items():
        if poller.state != "ok":
            times = count(poller.failures, "time")
            error = f"The poller {name} failed {times}: {poller.error}"
            yield Attention("warn", error, TIMERS_PATH)
    if state.retention and state.retention.error:
        yield Attention("warn", f"Old events were not deleted: {state.retention.error}")
    for warning in warnings:
        yield Attention("warn", warning)


def _waiting(queue: Queue | None, subscriber: str) -> Iterator[Attention]:
    """Return what waits for a decision."""
    if queue is None:
        return
    if queue.dead:
        yield _dead_letters(count(queue.dead, "dead letter"), subscriber)
    for each in queue.subscribers:
        yield from _queue_attention(each)


def _failed_decisions(service: Service, client: Client) -> Iterator[Attention]:
    """Return the decisions that fail because of an outage, even while the model's circuit breaker is closed."""
    now = service.store.now()
    failed = [
        each for each in service.store.failed_decisions.waiting() if client.includes(each.scope)
    ]
    if not failed or (lasts := (now - failed[0].since).total_seconds()) < LONG_FAILURE:
        return
    where = (
        f"the scope {failed[0].scope} has" if len(failed) == 1 else f"{len(failed):,} scopes have"
    )
    reason = max(failed, key=lambda each: each.at).reason.rstrip(".")
    path = url(f"{CONSOLE_PATH}/scope", name=failed[0].scope)
    sentence = (
        f"Decisions failed, first {duration(lasts)} ago, and {where} not acted since: {reason}."
    )
    yield Attention("bad", sentence, path)


def _dead_letters(letters: str, subscriber: str) -> Attention:
    path = url(f"{CONSOLE_PATH}/dead-letters", subscriber=subscriber)
    return Attention(
        "warn", f"{letters} of {subscriber}: retry or purge what failed for good.", path
    )


def _model_attention(model: ModelState) -> Attention:
    again = duration(model.retry_in)
    sentence = f"Events wait for the model {model.name}, which is tried again in {again}"
    level = "warn" if model.cause == "budget" else "bad"
    return Attention(level, f"{sentence}: {model.error or 'its last request failed'}")


def _queue_attention(stats: QueueStats) -> Iterator[Attention]:
    if stats.paused_at:
        by = stats.paused_by or "an operator"
        yield Attention(
            "warn", f"The subscriber {stats.subscriber} is paused by {by}.", TIMERS_PATH
        )
    if stats.dead:
        yield _dead_letters(count(stats.dead, "dead letter", about), stats.subscriber)
    if (stats.oldest_seconds or 0) > LONG_WAIT:
        waits = duration(stats.oldest_seconds)
        yield Attention("warn", f"The oldest event for {stats.subscriber} has waited {waits}.")
