"""What the database has at the end, and whether it is what was promised."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import asyncpg

from .events import FAILING, Sent
from .publisher import Answers

SHOWN = 5  # examples of what is amiss
DIED = "worker died"
"""How the reason begins with which an event is given up that took its process with it, time and again."""

LOG = "SELECT id, scope FROM events WHERE type = 'http.request'"
ACTIONS = "SELECT id, payload->'covers' AS covers FROM events WHERE type = 'agent.action'"
DROPPED = """
SELECT payload->'covers' AS covers, payload->>'reason' AS reason FROM events WHERE type = 'agent.dropped'
"""
STATUSES = "SELECT id, status, error FROM event_status WHERE subscriber = 'agent'"
EFFECTS = "SELECT action_id, covers FROM soak_effects"


class Check(NamedTuple):
    """A promise, and what became of it."""

    promise: str
    happened: str
    kept: bool
    examples: Sequence[str] = ()


class Status(NamedTuple):
    """How far an event has come."""

    name: str
    error: str | None


@dataclass
class Ledger:
    """What the database has."""

    log: set[str] = field(default_factory=set[str])
    """Ids of the events that clients published."""
    actions: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """The ids that each action covers."""
    dropped: dict[str, str | None] = field(default_factory=dict[str, str | None])
    """Why events were dropped without an action, where the service does so."""
    statuses: dict[str, Status] = field(default_factory=dict[str, Status])
    effects: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    """What the owner's code wrote with each action: its id, and how many events it covers."""


async def read(connection: asyncpg.Connection) -> Ledger:
    """Read everything, in one snapshot."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        dropped = await connection.fetch(DROPPED)
        return Ledger(
            log={row["id"] for row in await connection.fetch(LOG)},
            actions={
                row["id"]: json.loads(row["covers"]) for row in await connection.fetch(ACTIONS)
            },
            dropped={each: row["reason"] for row in dropped for each in json.loads(row["covers"])},
            statuses={
                row["id"]: Status(row["status"], row["error"])
                for row in await connection.fetch(STATUSES)
            },
            effects=[(row["action_id"], row["covers"]) for row in await connection.fetch(EFFECTS)],
        )


def checks(ledger: Ledger, answers: Answers, batches: bool) -> list[Check]:
    """Compare what was promised with what happened; with `batches`, what fails takes its batch along."""
    published = answers.acknowledged
    covered = Counter(each for covers in ledger.actions.values() for each in covers)
    kinds = Counter(_outcome(event, ledger, covered) for event in published.values())
    handled = kinds["acted on"] + kinds["filtered out"] + kinds["dropped with a reason"]
    dead = kinds["dead-lettered"]
    return [
        Check(
            "published = handled + held + dead-lettered with a reason",
            f"{len(published):,} = {handled:,} + {kinds['held']:,} + {dead:,}"
            + "".join(f", {count} {kind}" for kind, count in kinds.items() if kind in AMISS),
            bool(handled) and not any(kinds[kind] for kind in AMISS),
            _examples(published.values(), ledger, covered),
        ),
        _none(
            "0 events in two actions", [f"{i} in {n}" for i, n in covered.items() if n > 1], "twice"
        ),
        _effects(ledger),
        _none("only failing decisions are dead-lettered", _innocent(ledger, published, batches)),
        _none("what was refused is not stored", sorted(ledger.log & answers.refused.keys())),
        _none("every event is answered", [*answers.waiting], "not answered"),
        _none("a repetition is a duplicate, nothing else is odd", answers.strange, "odd answers"),
    ]


AMISS = ("lost", "without a trace in the log", "not settled", "dead-lettered without a reason")


def _outcome(event: Sent, ledger: Ledger, covered: Counter[str]) -> str:
    if event.id not in ledger.log:
        return "without a trace in the log"
    if event.id in covered:
        return "acted on"
    status = ledger.statuses.get(event.id, Status("without a status", None))
    match status.name:
        case "dlq":
            return "dead-lettered" if status.error else "dead-lettered without a reason"
        case "held":
            return "held"
        case _ if ledger.dropped.get(event.id):
            return "dropped with a reason"
        case "completed":
            return "filtered out" if event.kind == "skip" else "lost"
        case _:
            return "not settled"


def _examples(events: Iterable[Sent], ledger: Ledger, covered: Counter[str]) -> list[str]:
    return [
        f"{event.id} ({event.kind}, {event.scope}): {outcome}, {ledger.statuses.get(event.id)}"
        for event in events
        if (outcome := _outcome(event, ledger, covered)) in AMISS
    ]


def _effects(ledger: Ledger) -> Check:
    """Each action wrote its row, once."""
    rows = Counter(action for action, _ in ledger.effects)
    amiss = [
        f"{action} wrote {rows[action]} rows" for action in ledger.actions if rows[action] != 1
    ]
    amiss += [f"a row of no action: {action}" for action in rows.keys() - ledger.actions.keys()]
    amiss += [
        f"{action} covers {len(ledger.actions[action])} events, its row has {count}"
        for action, count in ledger.effects
        if action in ledger.actions and len(ledger.actions[action]) != count
    ]
    happened = f"{len(ledger.actions):,} actions, {len(ledger.effects):,} rows"
    return Check("an action's database effects happen once", happened, not amiss, amiss)


def _innocent(ledger: Ledger, published: dict[str, Sent], batches: bool) -> list[str]:
    """Return the dead letters of events whose decision does not fail by itself."""
    found: list[str] = []
    for event in published.values():
        name, error = ledger.statuses.get(event.id, Status("", None))
        neighbour = batches and event.scope.startswith("failing")
        if name == "dlq" and event.kind not in FAILING and not neighbour:
            if not (error or "").startswith(DIED):
                found.append(f"{event.id} ({event.kind}): {error}")
    return found


def _none(promise: str, amiss: list[str], what: str = "") -> Check:
    return Check(promise, f"{len(amiss)} {what}".strip(), not amiss, amiss)
