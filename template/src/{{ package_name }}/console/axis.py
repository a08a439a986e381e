"""Arranges the life of a scope as one axis of time, by day, newest first."""

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import NamedTuple

from ..api.sessions import CONSOLE_PATH
from ..core.events import ActionEvent, AgentDroppedEvent, EventMeta
from ..infra.store import Stored
from ..infra.store.inspection import Entry, ScopeLife
from .navigation import url
from .outline import Field, outline
from .text import brief, utc

MAX_COVERED = 8  # links to covered events of one row; the others are counted
ID_END = 8  # characters: ids of one time begin alike
MAX_REASON = 600  # characters of a drop

STATUS_KINDS = {
    "in flight": "accent",
    "held": "accent",
    "failed": "warn",
    "dead": "bad",
    "acted": "ok",
}
"""The kind of badge for each status; the others are neutral."""
STATUS_TEXTS = {"failed": "waits for a retry", "dead": "dead letter"}
"""Statuses whose name needs more words."""


class Cover(NamedTuple):
    """A link to a covered event."""

    id: str
    text: str
    """The time of day if the event is on the page; else the end of its id."""


class Row(NamedTuple):
    """What happened at one time."""

    kind: str
    """`event`, `action` or `dropped`."""
    event: Stored
    status: str
    badge: str
    badge_kind: str
    href: str | None
    """The action or drop that covers an event, or the dead letters of the scope."""
    replay_of: str | None
    """The id of the event that this one repeats."""
    covers: list[Cover]
    more: int
    """How many further events it covers."""
    output: list[Field] | None
    """The output of an action as lines; None if it is shown as JSON."""
    reason: str
    """Why events were dropped."""


class Day(NamedTuple):
    """The rows of one day, in UTC."""

    date: str
    rows: list[Row]


def arrange(life: ScopeLife) -> list[Day]:
    """Return the entries of a life by day, in their order."""
    times = {entry.event.id: utc(entry.at)[11:] for entry in life.entries}
    days: Iterable[tuple[str, Iterable[Entry]]] = groupby(
        life.entries, lambda entry: utc(entry.at)[:10]
    )
    return [Day(date, [_row(entry, times) for entry in entries]) for date, entries in days]


def _row(entry: Entry, times: Mapping[str, str]) -> Row:
    event, meta = entry.event, entry.event.meta
    covers = [Cover(each, times.get(each) or _end(each)) for each in entry.covers[-MAX_COVERED:]]
    is_drop = isinstance(event, AgentDroppedEvent)
    return Row(
        entry.kind,
        event,
        entry.status,
        STATUS_TEXTS.get(entry.status, entry.status),
        STATUS_KINDS.get(entry.status, ""),
        _href(entry),
        meta.replayed_from if isinstance(meta, EventMeta) else None,
        covers,
        len(entry.covers) - len(covers),
        outline(event.output) if isinstance(event, ActionEvent) else None,
        brief(event.reason, MAX_REASON) if is_drop else "",
    )


def _href(entry: Entry) -> str | None:
    if entry.status == "dead":
        return url(f"{CONSOLE_PATH}/dead-letters", scope=entry.event.scope)
    if entry.by is None:
        return None
    return url(f"{CONSOLE_PATH}/{'decision' if entry.status == 'acted' else 'event'}", id=entry.by)


def _end(event_id: str) -> str:
    return event_id if len(event_id) <= ID_END + 1 else f"…{event_id[-ID_END:]}"
