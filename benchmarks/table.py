"""The report: what a figure is, with its spread over the rounds, and whether it is what was wanted."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from .works import Kind, Target


@dataclass(frozen=True)
class Row:
    """One figure that a module contributes."""

    title: str
    unit: str
    target: float | None = None
    """At most this; without it, the figure is shown and not judged."""
    at_least: bool = False
    """Whether the target is a lower bound."""
    reason: str = ""
    """Why the target is missed for now, where that is known: the table shows it, and nothing fails."""


@dataclass(frozen=True)
class Verdict:
    """What the table says about a target, and whether `make bench` may succeed."""

    text: str
    passed: bool


def spread(values: Sequence[float]) -> str:
    """Write a median with the least and the greatest of all rounds."""
    if len(values) == 1:
        return number(values[0])
    return f"{number(statistics.median(values))} ({number(min(values))}–{number(max(values))})"  # noqa: RUF001 - a range


def number(value: float) -> str:
    """Write a figure with as many digits as it deserves."""
    if value >= 100 or value == round(value) == 0:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def median_ratio(ours: Sequence[float], beside: Sequence[float]) -> float:
    """Return the median of the ratios within a round."""
    return statistics.median(ratios(ours, beside))


def ratios(ours: Sequence[float], beside: Sequence[float]) -> list[float]:
    """Return the ratio of each round."""
    return [a / b for a, b in zip(ours, beside, strict=True)]


def judge(target: Target | None, kind: Kind, values: Sequence[float]) -> Verdict:
    """Compare the median of the ratios with what a work wants."""
    if target is None:
        return Verdict("", True)
    return _judge(target.ratio, target.reason, values, at_least=kind is Kind.RATE)


def judge_row(row: Row, values: Sequence[float]) -> Verdict:
    """Compare the median of a row's figures with its target."""
    if row.target is None:
        return Verdict("", True)
    return _judge(row.target, row.reason, values, at_least=row.at_least)


def _judge(target: float, reason: str, values: Sequence[float], *, at_least: bool) -> Verdict:
    wanted = f"{'at least' if at_least else 'at most'} {target:g}"
    median = statistics.median(values)
    if median >= target if at_least else median <= target:
        return Verdict(wanted, True)
    return Verdict(f"{wanted}: missed. {reason or 'The reason is not known.'}", bool(reason))


def line(*cells: str) -> str:
    """Write a line of a table."""
    return f"| {' | '.join(cells)} |"


def header(*titles: str) -> list[str]:
    """Write the head of a table."""
    return [line(*titles), "|" + "---|" * len(titles)]
