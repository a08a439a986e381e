"""Measure the rendered service beside its peers: `make bench`.

Rounds are interleaved: in each, everybody does every work once, so that what slows the machine down
for a while slows everybody down. What is compared are ratios within a round; their median counts.
"""

import asyncio
import platform
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from os import cpu_count
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from my_agent.config import Settings
from my_agent.infra.process.embedded import embedded_postgres

from .conditions import SHIPPED, TUNED, Conditions, Side, loop_factory
from .gate import Outcome
from .rows import Place, Row, modules
from .server import OURS, ROOT, Server
from .table import header, judge, judge_row, line, number, ratios, spread
from .works import WORKS, Entry, Kind, Work

CONTENDERS = (OURS, "pgqueuer", "procrastinate", "floor")
NAMES = {OURS: "Reflex", "pgqueuer": "PgQueuer", "procrastinate": "Procrastinate", "floor": "floor"}
PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
NEW = Side("new", ROOT / "build" / "my-agent" / "src")

Base = Annotated[
    Path | None,
    typer.Option(
        exists=True, file_okay=False, help="Another rendered project, to be measured beside."
    ),
]


@dataclass(frozen=True)
class Trial:
    """One contender at one work, under some conditions, with some code."""

    entry: Entry
    conditions: Conditions
    side: Side

    def __str__(self) -> str:
        """Name it in a line of progress."""
        old = f" ({self.side.name})" if self.side != NEW else ""
        return f"{self.entry.contender}{old} {self.entry.processes[0]}, {self.conditions.title}"


@dataclass
class Measured:
    """The figures of all rounds so far."""

    trials: dict[tuple[Trial, Kind], list[float]]
    rows: dict[tuple[str, Side], list[float]]

    def of(self, entry: Entry, kind: Kind, conditions: Conditions, side: Side) -> list[float]:
        """Return the figures of an entry, one for each round."""
        return self.trials[trial(entry, conditions, side), kind]

    def ratios(self, work: Work, kind: Kind, conditions: Conditions, side: Side) -> list[float]:
        """Return by how much we differ from whom a work is compared with, for each round."""
        ours, beside = (
            self.of(entry, kind, conditions, side) for entry in (work.ours, work.beside)
        )
        return ratios(ours, beside)


def trial(entry: Entry, conditions: Conditions, side: Side) -> Trial:
    """Return who does what where; peers are the same beside any code of ours."""
    return Trial(entry, conditions, side if entry.contender == OURS else NEW)


@dataclass(frozen=True)
class Plan:
    """What is to be measured."""

    rounds: int
    works: tuple[Work, ...]
    modules: tuple[ModuleType, ...]
    conditions: tuple[Conditions, ...]
    sides: tuple[Side, ...]
    scale: float

    def trials(self) -> Iterator[tuple[Trial, tuple[Kind, ...]]]:
        """Yield what is done in each round, with what is wanted of it."""
        for work in self.works:
            for conditions in self.conditions:
                compared = (work.ours, work.beside)
                others = work.others if conditions is SHIPPED else ()
                for side in self.sides:
                    for entry in compared:
                        yield trial(entry, conditions, side), work.kinds
                for entry in others:
                    yield trial(entry, conditions, NEW), work.kinds


def main(
    rounds: Annotated[int, typer.Option(min=1, help="How often everybody does every work.")] = 5,
    only: Annotated[str, typer.Option(help="Only rows with this in their title.")] = "",
    skip: Annotated[
        list[str] | None, typer.Option(help="Leave the rows of this module out, e.g. `memory`.")
    ] = None,
    tuned: Annotated[bool, typer.Option(help="Measure the tuned store, too.")] = True,
    base: Base = None,
    scale: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the events, to try whether all works.")
    ] = 1.0,
    database: Annotated[
        str, typer.Option(help="URL of a server to measure on, as a superuser; else an own one.")
    ] = "",
    write: Annotated[bool, typer.Option(help="Write the table into docs/benchmarks.md.")] = False,
) -> None:
    """Print a table, and fail if a target is missed for no known reason."""
    if write and (only or skip or not tuned or scale != 1):
        raise typer.BadParameter("--write needs all rows, both conditions and all events")
    plan = Plan(
        rounds,
        tuple(work.scaled(scale) for work in WORKS if only in work.title),
        tuple(chosen(only, skip or [])),
        (SHIPPED, TUNED) if tuned else (SHIPPED,),
        (NEW, Side("old", base.resolve() / "src")) if base else (NEW,),
        scale,
    )
    own = embedded_postgres(ROOT / "build" / "bench")
    with nullcontext(database) if database else own as url:
        lines, missed = asyncio.run(report(Server(url, scale), plan))
    table = "\n".join(lines)
    print(table)
    if write:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}")
    for title in missed:
        print(f"Missed: {title}", file=sys.stderr)
    raise SystemExit(1 if missed else 0)


def chosen(only: str, skip: Sequence[str]) -> Iterator[ModuleType]:
    """Yield the modules that contribute rows which are wanted."""
    for module in modules():
        name = module.__name__.rpartition(".")[2]
        if name not in skip and any(only in row.title for row in module.ROWS):
            yield module


async def report(server: Server, plan: Plan) -> tuple[list[str], list[str]]:
    """Measure; return the lines of the report and the titles of what was missed."""
    await server.prepare(CONTENDERS, plan.sides)
    measured = Measured(defaultdict(list), defaultdict(list))
    for number_of_round in range(plan.rounds):
        await measure_round(server, plan, number_of_round, measured)
    lines = await conditions_of(server, plan)
    missed: list[str] = []
    for part in (works_table(plan, measured), rows_table(plan, measured)):
        lines += part[0]
        missed += part[1]
    return [*lines, *beside_base(plan, measured)], missed


async def measure_round(server: Server, plan: Plan, round_: int, measured: Measured) -> None:
    """Let everybody do everything once."""
    for each, kinds in dict(plan.trials()).items():
        report_progress(f"round {round_ + 1}: {each}")
        outcomes = await server.measure(each.entry, each.conditions, each.side)
        for kind in kinds:
            measured.trials[each, kind].append(figure(each.entry, outcomes, kind))
    for module in plan.modules:
        if round_ >= getattr(module, "ROUNDS", plan.rounds):
            continue
        for side in plan.sides:
            report_progress(f"round {round_ + 1}: {module.__name__} ({side.name})")
            figures = await module.measure(Place(server, side, plan.scale))
            for row in module.ROWS:
                measured.rows[row.title, side].append(figures[row.title])


def report_progress(sentence: str) -> None:
    """Print what is measured next, and when."""
    print(f"{datetime.now(UTC):%H:%M:%S} {sentence}", file=sys.stderr)


def figure(entry: Entry, outcomes: list[Outcome], kind: Kind) -> float:
    """Return the one figure that counts of a measurement, and check that nothing is amiss in it."""
    if kind is Kind.RATE:
        count = sum(outcome.count for outcome in outcomes)
        if entry.backlog:
            handled = [event for outcome in outcomes for event in outcome.seen]
            if count != entry.backlog or len(set(handled)) != len(handled):
                raise SystemExit(f"{entry}: {count} of {entry.backlog} handled, or one twice")
        return count / (max(o.end for o in outcomes) - min(o.start for o in outcomes))
    if len(outcomes) == 1:
        delays = list(outcomes[0].seen.values())
    else:
        heard, said = outcomes[0].seen, outcomes[1].seen
        delays = [heard[name] - sent for name, sent in said.items()]
    percentiles = statistics.quantiles(delays, n=100)
    return 1_000 * percentiles[49 if kind is Kind.P50 else 98]


async def conditions_of(server: Server, plan: Plan) -> list[str]:
    """Write what was measured on what."""
    factory = loop_factory()
    loop = factory.__module__.partition(".")[0] if factory else "asyncio"
    peers = ", ".join(f"{NAMES[name]} {version(name)}" for name in ("pgqueuer", "procrastinate"))
    lines = [
        f"Measured on {datetime.now(UTC):%Y-%m-%d}: PostgreSQL {await server.version()} with default durability,"
        f" {platform.python_implementation()} {platform.python_version()}, event loop"
        f" {loop}{f' {version(loop)}' if loop != 'asyncio' else ''} and the collector of `worker` for everybody,"
        f" {cpu_count()} cores; {peers}; {plan.rounds} interleaved"
        f" {'rounds' if plan.rounds > 1 else 'round'}.",
        "",
    ]
    default = Settings.model_fields["agent_prefetch"].default
    for each in plan.conditions:
        in_flight = each.settings.get("AGENT_PREFETCH")
        flight = (
            f"at most {int(in_flight):,} events in flight, the best"
            if in_flight
            else f"at most {default} events in flight, the default"
        )
        lines.append(
            f"- {each.title.capitalize()}: `LOG_LEVEL={each.log_level}` into pipes that are read, payloads of"
            f" {each.payload} bytes, {flight}; all other settings at their defaults."
        )
    if plan.scale != 1:
        lines.append(f"- A trial with a share of {plan.scale:g} of the events: not to be quoted.")
    return [*lines, ""]


def works_table(plan: Plan, measured: Measured) -> tuple[list[str], list[str]]:
    """Write the table beside the peers; return also what was missed."""
    if not plan.works:
        return [], []
    titles = ["work", "unit", *(NAMES[name] for name in CONTENDERS), "ratio", "wanted"]
    if TUNED in plan.conditions:
        titles += ["tuned: Reflex", "beside", "ratio", "wanted"]
    lines, missed = header(*titles), list[str]()
    for work in plan.works:
        for kind in work.kinds:
            cells = [work.title, kind.value, *shown(work, kind, measured)]
            for conditions in plan.conditions:
                values = measured.ratios(work, kind, conditions, NEW)
                target = work.shipped if conditions is SHIPPED else work.tuned
                verdict = judge(target, kind, values)
                if conditions is TUNED:
                    compared = (work.ours, work.beside)
                    cells += [median(measured.of(e, kind, TUNED, NEW)) for e in compared]
                cells += [spread(values), verdict.text]
                missed += [] if verdict.passed else [f"{work.title}, {conditions.title}"]
            lines.append(line(*cells))
    return [*lines, ""], missed


def shown(work: Work, kind: Kind, measured: Measured) -> list[str]:
    """Return the cells of all contenders, as shipped."""
    by_contender = {entry.contender: entry for entry in (*work.others, work.beside, work.ours)}
    return [
        median(measured.of(by_contender[name], kind, SHIPPED, NEW)) if name in by_contender else ""
        for name in CONTENDERS
    ]


def median(values: Sequence[float]) -> str:
    """Write the median of all rounds."""
    return number(statistics.median(values))


def rows_table(plan: Plan, measured: Measured) -> tuple[list[str], list[str]]:
    """Write the table of what modules contribute; return also what was missed."""
    rows = rows_of(plan)
    lines, missed = header("row, as shipped", "unit", "Reflex", "wanted"), list[str]()
    for row in rows:
        values = measured.rows[row.title, NEW]
        verdict = judge_row(row, values)
        missed += [] if verdict.passed else [row.title]
        lines.append(line(row.title, row.unit, spread(values), verdict.text))
    return (lines, missed) if rows else ([], [])


def rows_of(plan: Plan) -> list[Row]:
    """Return the rows of all modules that were measured."""
    return [row for module in plan.modules for row in module.ROWS]


def beside_base(plan: Plan, measured: Measured) -> list[str]:
    """Write the table of the new code beside the old, measured in the same rounds."""
    if len(plan.sides) == 1:
        return []
    new, old = plan.sides
    lines = [
        "",
        f"New code ({new.source.parent}) beside the old ({old.source.parent}):",
        "",
        *header("work", "unit", "conditions", "old", "new", "new / old", "old ratio", "new ratio"),
    ]
    for work in plan.works:
        for kind in work.kinds:
            for conditions in plan.conditions:
                before, now = (
                    measured.of(work.ours, kind, conditions, side) for side in (old, new)
                )
                beside = [spread(measured.ratios(work, kind, conditions, s)) for s in (old, new)]
                cells = (median(before), median(now), spread(ratios(now, before)))
                lines.append(line(work.title, kind.value, conditions.title, *cells, *beside))
    for row in rows_of(plan):
        before, now = (measured.rows[row.title, side] for side in (old, new))
        change = spread(ratios(now, before)) if all(before) else ""
        cells = (spread(before), spread(now), change, "", "")
        lines.append(line(row.title, row.unit, SHIPPED.title, *cells))
    return lines


if __name__ == "__main__":
    typer.run(main)
