"""The benchmarks' own rules: what counts as missed, what a figure shows, and that pipes are read.

`make bench` is no test of `make test`: it takes long, and wants a quiet machine. So what it rests on is tested.
"""

import asyncio
import sys
from asyncio.subprocess import PIPE

import pytest

from benchmarks.conditions import SHIPPED, TUNED
from benchmarks.pipes import Pipes
from benchmarks.table import Row, judge, judge_row, ratios, spread
from benchmarks.works import WORKS, Kind, Target

WRITES_MUCH = """
import sys
for number in range(20_000):
    print("a line that fills the pipe", file=sys.stderr)
print("done", flush=True)
sys.stdin.readline()
"""
SOON = 30.0  # seconds


def test_a_figure_shows_its_median_and_the_least_and_greatest_of_all_rounds() -> None:
    values = ratios([10.0, 30.0, 20.0], [10.0, 10.0, 10.0])

    assert spread(values) == "2.00 (1.00–3.00)"  # noqa: RUF001 - a range
    assert spread([12_345.6]) == "12,346"


def test_a_rate_has_a_lower_bound_and_a_time_an_upper_one() -> None:
    assert judge(Target(1.0), Kind.RATE, [0.5, 1.1, 1.2]).passed
    assert not judge(Target(1.0), Kind.RATE, [0.5, 0.9, 1.2]).passed
    assert judge(Target(0.75), Kind.P99, [0.7]).passed
    assert not judge(Target(0.75), Kind.P50, [0.8]).passed


def test_a_miss_stands_in_the_table_with_its_reason_and_fails_without_one() -> None:
    known = judge_row(Row("a", "ms", 20.0, reason="The disk is slow."), [30.0])
    unknown = judge_row(Row("a", "ms", 20.0), [30.0])

    assert known.passed
    assert known.text == "at most 20: missed. The disk is slow."
    assert not unknown.passed
    assert "missed" in unknown.text


def test_a_row_without_a_target_is_shown_and_not_judged() -> None:
    verdict = judge_row(Row("a", "lines"), [1e9])

    assert verdict.passed
    assert not verdict.text


def test_the_service_is_measured_at_its_own_log_level_and_defaults() -> None:
    assert SHIPPED.variables()["LOG_LEVEL"] == "INFO"
    assert not SHIPPED.settings
    assert TUNED.variables()["AGENT_PREFETCH"] == "1000"


@pytest.mark.parametrize(
    "title, wanted",
    [
        ("drain 10,000 through the reference loop", 1.0),
        ("drain 10,000, a task per event", 2.0),
        ("publish one by one, one client", 1.0),
        ("publish 10,000 in one call", 0.8),
        ("publish to handler at 50 a second, two processes", 0.75),
        ("publish to handler at 50 a second, one process", 0.75),
    ],
)
def test_the_service_as_shipped_has_a_target(title: str, wanted: float) -> None:
    [work] = [work for work in WORKS if work.title == title]

    assert work.shipped
    assert work.shipped.ratio == wanted


def test_a_trial_has_fewer_events_and_the_same_targets() -> None:
    for work in WORKS:
        trial = work.scaled(0.02)

        assert trial.ours.count < work.ours.count
        assert trial.ours.backlog in {0, trial.ours.count}
        assert (trial.shipped, trial.tuned) == (work.shipped, work.tuned)


def test_a_process_that_logs_much_is_read_and_its_lines_are_counted() -> None:
    async def run() -> int:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", WRITES_MUCH), stdin=PIPE, stdout=PIPE, stderr=PIPE
        )
        pipes = Pipes(process)
        assert await pipes.said("done")
        assert process.stdin
        process.stdin.write(b"\n")
        assert not await pipes.said("never")
        await pipes.close()
        assert await process.wait() == 0
        return pipes.lines

    assert asyncio.run(asyncio.wait_for(run(), SOON)) == 20_001
