"""What is measured, who does it, and what the result has to be beside the best peer."""

from dataclasses import dataclass, replace
from enum import Enum

FEWEST = 64  # events that are enough to try whether all works


class Kind(Enum):
    """What of a measurement is compared."""

    RATE = "a second"
    P50 = "ms, p50"
    P99 = "ms, p99"


@dataclass(frozen=True)
class Entry:
    """One contender at one work."""

    contender: str
    processes: tuple[str, ...]
    """The function that each process runs; all of them start together."""
    count: int
    backlog: int = 0
    """How many events lie there before."""
    history: bool = False
    """Whether the log has a million handled events."""
    fill: str = "fill"
    """The function that leaves the backlog."""

    def scaled(self, scale: float) -> "Entry":
        """Return the same with a share of its events."""
        fewer = {n: max(min(n, FEWEST), round(n * scale)) for n in (self.count, self.backlog)}
        return replace(self, count=fewer[self.count], backlog=fewer[self.backlog])


@dataclass(frozen=True)
class Target:
    """What a ratio has to be."""

    ratio: float
    """At least this; at most, where it is time that is measured."""
    reason: str = ""
    """Why it is missed for now, where that is known: the table shows it, and `make bench` does not fail."""


@dataclass(frozen=True)
class Work:
    """One row of the table."""

    title: str
    ours: Entry
    beside: Entry
    """What our figure is divided by."""
    tuned: Target
    """For the tuned store."""
    others: tuple[Entry, ...] = ()
    """Shown for orientation, as shipped only."""
    kinds: tuple[Kind, ...] = (Kind.RATE,)
    shipped: Target | None = None
    """For the service as it is shipped; without it, that ratio is shown and not judged."""

    def scaled(self, scale: float) -> "Work":
        """Return the same with a share of its events."""
        ours, beside, *others = (
            entry.scaled(scale) for entry in (self.ours, self.beside, *self.others)
        )
        return replace(self, ours=ours, beside=beside, others=tuple(others))


def entry(contender: str, *processes: str, count: int) -> Entry:
    """Start from an empty queue."""
    return Entry(contender, processes, count)


def drain(
    contender: str,
    *processes: str,
    history: bool = False,
    count: int = 10_000,
    fill: str = "fill",
) -> Entry:
    """Drain a backlog."""
    return Entry(contender, processes, count, count, history, fill)


WORKS = (
    Work(
        "publish one by one, one client",
        entry("reflex", "publish_one_by_one", count=2_000),
        entry("pgqueuer", "publish_one_by_one", count=2_000),
        Target(
            1.3,
            "1.03 to 1.2 from run to run, where the floor, a commit and nothing else, makes 1.35 to 1.6",
        ),
        (
            entry("procrastinate", "publish_one_by_one", count=1_000),
            entry("floor", "publish_one_by_one", count=2_000),
        ),
        shipped=Target(1.0),
    ),
    Work(
        "publish, 16 concurrent in one process",
        entry("reflex", "publish_concurrently", count=16_000),
        entry("pgqueuer", "publish_concurrently", count=4_800),
        Target(6.0),
        (
            entry("procrastinate", "publish_concurrently", count=1_600),
            entry("floor", "publish_concurrently", count=16_000),
        ),
    ),
    Work(
        "publish, 4 processes at once, each one by one",
        entry("reflex", *["publish_one_by_one"] * 4, count=1_000),
        entry("pgqueuer", *["publish_one_by_one"] * 4, count=1_000),
        Target(1.0),
        (
            entry("procrastinate", *["publish_one_by_one"] * 4, count=500),
            entry("floor", *["publish_one_by_one"] * 4, count=1_000),
        ),
    ),
    Work(
        "publish 10,000 in one call",
        entry("reflex", "publish_in_bulk", count=10_000),
        entry("pgqueuer", "publish_in_bulk", count=10_000),
        Target(
            0.9,
            "0.9 to 0.95 from run to run; the server takes 12 of 15 µs an event, in five indexes",
        ),
        (
            entry("procrastinate", "publish_in_bulk", count=10_000),
            entry("floor", "publish_in_bulk", count=10_000),
        ),
        shipped=Target(0.8),
    ),
    Work(
        "drain 10,000 one at a time, claiming one by one",
        drain("reflex", "drain_claiming_singly"),
        drain("procrastinate", "drain_in_turn", count=3_000),
        Target(2.0),
        (drain("floor", "drain_in_turn"),),
    ),
    Work(
        "drain 10,000 one at a time, with prefetch",
        drain("reflex", "drain_prefetching"),
        drain("procrastinate", "drain_in_turn", count=3_000),
        Target(4.0),
    ),
    Work(
        "drain 10,000, a task per event",
        drain("reflex", "drain_by_tasks"),
        drain("pgqueuer", "drain_by_tasks"),
        Target(2.5),
        (drain("procrastinate", "drain_by_tasks", count=3_000),),
        shipped=Target(
            2.0,
            "0.95 to 1.3: 32 events in flight by default, so a claim is paid for 32 events at most",
        ),
    ),
    Work(
        "drain 10,000, a batch at once",
        drain("reflex", "drain_by_batches"),
        drain("pgqueuer", "drain_by_tasks"),
        Target(3.5, "3.3 to 4.6: a quiet machine favours PgQueuer"),
        (drain("floor", "drain_by_batches"),),
    ),
    Work(
        "drain 10,000 through the reference loop",
        drain("reflex", "drain_by_the_loop"),
        drain("pgqueuer", "drain_by_tasks"),
        Target(
            1.5,
            "0.68, and 1.45 to 1.65 before the events of a scope were handled in order: it waits for Python",
        ),
        shipped=Target(
            1.0,
            "0.46 to 0.67, and 0.17 to 0.21 before held events had no line and no span: each event is validated,"
            " and has its context and its hold",
        ),
    ),
    Work(
        "drain 10,000 with 1,000,000 events of history, beside none",
        drain("reflex", "drain_by_tasks", history=True),
        drain("reflex", "drain_by_tasks"),
        Target(0.95, "0.82 in one round, where its spread is not known"),
    ),
    Work(
        "drain 20,000 of 1,000 scopes with two workers, beside one",
        drain("reflex", "share_a_backlog", "share_a_backlog", count=20_000, fill="fill_scopes"),
        drain("reflex", "share_a_backlog", count=20_000, fill="fill_scopes"),
        Target(1.0),
    ),
    Work(
        "publish to handler at 50 a second, two processes",
        entry("reflex", "listen", "speak", count=1_000),
        entry("pgqueuer", "listen", "speak", count=1_000),
        Target(0.75),
        kinds=(Kind.P50, Kind.P99),
        shipped=Target(
            0.75, "0.8 to 0.95 for p50: most of it is a commit, a NOTIFY and a claim for both"
        ),
    ),
    Work(
        "publish to handler at 50 a second, one process",
        entry("reflex", "speak_and_listen", count=1_000),
        entry("pgqueuer", "speak_and_listen", count=1_000),
        Target(0.75),
        (entry("floor", "speak_and_listen", count=1_000),),
        kinds=(Kind.P50, Kind.P99),
        shipped=Target(0.75),
    ),
)
