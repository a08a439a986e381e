"""Measure the rendered store beside its peers: `make bench`.

Rounds are interleaved: in each, everybody does every work once, so that what slows the machine down
for a while slows everybody down. What is compared are ratios within a round; their median counts.
"""

import asyncio
import platform
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from os import cpu_count
from typing import Annotated

import typer

from my_agent.infra.embedded import embedded_postgres

from .gate import Outcome
from .server import HISTORY, ROOT, Server, run
from .works import WORKS, Entry, Kind, Work

CONTENDERS = ("reflex", "pgqueuer", "procrastinate", "floor")
PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
MORE_MEMORY = 50.0  # MB that draining or replaying a million may take beyond draining ten thousand

type Figures = dict[tuple[Entry, Kind], list[float]]


def main(
    rounds: Annotated[int, typer.Option(help="How often everybody does every work.")] = 3,
    only: Annotated[str, typer.Option(help="Only works with this in their title.")] = "",
    memory: Annotated[bool, typer.Option(help="Drain and replay a million, too.")] = True,
    write: Annotated[bool, typer.Option(help="Write the table into docs/benchmarks.md.")] = False,
) -> None:
    """Print a table, and fail if a target is missed."""
    with embedded_postgres(ROOT / "build" / "bench") as url:
        lines, missed = asyncio.run(measure(Server(url), rounds, only, memory))
    table = "\n".join(lines)
    print(table)
    if write:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}")
    for title in missed:
        print(f"Missed: {title}", file=sys.stderr)
    raise SystemExit(1 if missed else 0)


async def measure(
    server: Server, rounds: int, only: str, memory: bool
) -> tuple[list[str], list[str]]:
    """Run all rounds; return the lines of the report and the titles of what was missed."""
    works = [work for work in WORKS if only in work.title]
    await server.prepare(CONTENDERS)
    figures: Figures = defaultdict(list)
    for number in range(rounds):
        for entry, kinds in dict(entries(works)).items():
            print(f"round {number + 1}: {entry.contender} {entry.processes[0]}", file=sys.stderr)
            outcomes = await server.measure(entry)
            for kind in kinds:
                figures[entry, kind].append(figure(entry, outcomes, kind))
    lines = [*await heading(server, rounds), *HEADER]
    missed: list[str] = []
    for work in works:
        for kind in work.kinds:
            line, reached = row(work, kind, figures)
            lines.append(line)
            missed += [] if reached else [work.title]
    if memory:
        for line, reached in (await rows_written(server), await memory_used(server)):
            lines.append(line)
            missed += [] if reached else [line]
    return lines, missed


def entries(works: list[Work]) -> Iterator[tuple[Entry, tuple[Kind, ...]]]:
    """Yield every entry with what is wanted of it."""
    for work in works:
        for entry in (work.ours, work.beside, *work.others):
            yield entry, work.kinds


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


HEADER = (
    "| work | unit | Reflex | PgQueuer | Procrastinate | floor | ratio | wanted |",
    "|---|---|---|---|---|---|---|---|",
)


def row(work: Work, kind: Kind, figures: Figures) -> tuple[str, bool]:
    """Return a row of the table, and whether its target is reached."""
    ours, beside = figures[work.ours, kind], figures[work.beside, kind]
    ratio = statistics.median(a / b for a, b in zip(ours, beside, strict=True))
    reached = ratio >= work.target if kind is Kind.RATE else ratio <= work.target
    by_contender = {entry.contender: entry for entry in (*work.others, work.beside, work.ours)}
    cells = [
        number(statistics.median(figures[by_contender[name], kind])) if name in by_contender else ""
        for name in CONTENDERS
    ]
    wanted = f"{'at least' if kind is Kind.RATE else 'at most'} {work.target:g}"
    verdict = wanted if reached else f"{wanted}: missed. {work.missed}".strip()
    line = f"| {' | '.join((work.title, kind.value, *cells, f'{ratio:.2f}', verdict))} |"
    return line, reached or bool(work.missed)


def number(value: float) -> str:
    """Write a figure with as many digits as it deserves."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


async def rows_written(server: Server) -> tuple[str, bool]:
    """Count what is written for an event that is published, claimed and acked."""
    count = 1_000
    async with server.fresh("reflex") as url:
        await fill_and_drain(url, count)
        written = await server.written(url)
    inserted, updated, deleted = (rows / count for rows in written)
    line = (
        f"| rows written for an event | | {inserted:.2f} inserted, {updated:.2f} updated,"
        f" {deleted:.2f} deleted | | | | | at most 2, 1 and 1 |"
    )
    return line, inserted <= 2 and updated <= 1 and deleted <= 1


async def fill_and_drain(url: str, count: int) -> Outcome:
    """Publish so many events and drain them."""
    await run([("reflex", "fill", url, count)])
    (outcome,) = await run([("reflex", "drain_by_tasks", url, count)])
    return outcome


async def memory_used(server: Server) -> tuple[str, bool]:
    """Compare the memory of draining ten thousand with that of draining and replaying a million."""
    async with server.fresh("reflex") as url:
        few = await fill_and_drain(url, 10_000)
    async with server.fresh("reflex", history=True) as url:
        await server.owe_everything(url)
        (many,) = await run([("reflex", "drain_by_tasks", url, HISTORY)])
        (replayed,) = await run([("reflex", "replay", url, HISTORY)])
    peaks = [outcome.peak_mb for outcome in (few, many, replayed)]
    line = (
        f"| peak memory: drain 10,000, drain 1,000,000, replay 1,000,000 | MB | {peaks[0]:.0f},"
        f" {peaks[1]:.0f}, {peaks[2]:.0f} | | | | | at most {MORE_MEMORY:g} more |"
    )
    return line, max(peaks) - peaks[0] <= MORE_MEMORY


async def heading(server: Server, rounds: int) -> list[str]:
    """Say what was measured on what."""
    peers = ", ".join(f"{name} {version(name)}" for name in ("pgqueuer", "procrastinate"))
    return [
        f"Measured on {datetime.now(UTC):%Y-%m-%d}: PostgreSQL {await server.version()} with default durability,"
        f" {platform.python_implementation()} {platform.python_version()}, {cpu_count()} cores; {peers};"
        f" medians of {rounds} interleaved rounds.",
        "",
    ]


if __name__ == "__main__":
    typer.run(main)
