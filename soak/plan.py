"""What goes wrong, and when: the same seed gives the same faults."""

import random
from collections.abc import Container
from dataclasses import dataclass
from enum import StrEnum

FIRST = 5.0  # seconds until the first fault: the service has something to do by then
GAP = (3.0, 8.0)  # seconds between two faults
PROCESSES = ("api", "worker-1", "worker-2")
SPARED = ("api", "worker-2")
"""What is not ended any more after the first quarter of a run, so that its memory can be compared."""
LONGEST_FREEZE = 25.0  # seconds for those: a worker that stood still for 30 ends itself


class Kind(StrEnum):
    """A kind of fault."""

    KILL = "kill -9"
    FREEZE = "freeze"
    STOP = "SIGTERM"
    RESTART = "server restart"
    CRASH = "server crash"
    SILENCE = "silent connections"
    SLOTS = "no free slot"
    PROVIDER = "provider"
    TERMINATE = "ended sessions"
    TRANSACTION = "long transaction"


DECK = {
    Kind.KILL: 3,
    Kind.FREEZE: 3,
    Kind.STOP: 1,
    Kind.RESTART: 1,
    Kind.CRASH: 1,
    Kind.SILENCE: 2,
    Kind.SLOTS: 2,
    Kind.PROVIDER: 3,
    Kind.TERMINATE: 2,
    Kind.TRANSACTION: 1,
}
"""How often each kind comes, in so many faults as there are cards."""

LASTING = {
    Kind.FREEZE: (5.0, 40.0),
    Kind.SLOTS: (5.0, 20.0),
    Kind.PROVIDER: (5.0, 20.0),
    Kind.TRANSACTION: (10.0, 40.0),
}
"""How long a fault of a kind lasts, in seconds; the others are over at once."""

OUTAGES = ("down", "slow", "429", "429 until", "429 absurd", "500", "401", "hang")
LIMITED = ("role", "database")


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong."""

    at: float
    """Seconds after the beginning."""
    kind: Kind
    detail: str
    """Which process, which way in which the provider fails, whose limit; empty for other kinds."""
    seconds: float
    """How long it lasts."""

    def __str__(self) -> str:
        lasting = f" for {self.seconds:.0f} s" if self.seconds else ""
        return f"{self.kind}{' ' if self.detail else ''}{self.detail}{lasting}"


def plan(seed: int, seconds: float, left_out: Container[str] = ()) -> list[Fault]:
    """Return the faults of a run that lasts so long; the first ones are of each kind once.

    Kinds whose `name`, in lower case, is in `left_out` do not occur.
    """
    chance = random.Random(seed)  # noqa: S311 - the same faults each time
    kinds = [kind for kind in Kind if kind.name.lower() not in left_out]
    cards = [kind for kind in kinds for _ in range(DECK[kind])]
    deck = chance.sample(kinds, len(kinds))
    faults: list[Fault] = []
    at = FIRST
    while at < seconds and kinds:
        if not deck:
            deck = chance.sample(cards, len(cards))
        faults.append(_fault(chance, at, deck.pop(), spare=at > seconds / 4))
        at += chance.uniform(*GAP)
    return faults


def _fault(chance: random.Random, at: float, kind: Kind, *, spare: bool) -> Fault:
    detail, seconds = "", chance.uniform(*LASTING.get(kind, (0.0, 0.0)))
    match kind:
        case Kind.KILL | Kind.STOP:
            detail = chance.choice([name for name in PROCESSES if not (spare and name in SPARED)])
        case Kind.FREEZE:
            detail = chance.choice(PROCESSES)
            if spare and detail in SPARED:
                seconds = min(seconds, LONGEST_FREEZE)
        case Kind.PROVIDER:
            detail = chance.choice(OUTAGES)
        case Kind.SLOTS:
            detail = chance.choice(LIMITED)
        case _:
            pass
    return Fault(at, kind, detail, seconds)
