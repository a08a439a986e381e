"""The soak itself: its plan can be repeated, its agent fits a project, and its account finds what is amiss.

The soak is no test of `make test`: it takes minutes, and what it finds depends on chance. So what it rests on is tested.
"""

import subprocess
from pathlib import Path

import pytest

from demo.render import REPOSITORY
from soak.events import Sent, make
from soak.ledger import Check, Ledger, Status, checks
from soak.plan import DECK, SPARED, Kind, plan
from soak.project import put_together
from soak.publisher import Answers
from soak.watch import Sample, growth

MINUTES = 60.0  # seconds


def test_the_same_seed_gives_the_same_plan_and_every_kind_of_fault() -> None:
    faults = plan(7, 20 * MINUTES)

    assert faults == plan(7, 20 * MINUTES)
    assert faults != plan(8, 20 * MINUTES)
    assert {fault.kind for fault in faults} == {*Kind} == {*DECK}


def test_what_is_left_out_of_a_plan_does_not_occur() -> None:
    faults = plan(7, 20 * MINUTES, {"silence"})

    assert faults
    assert Kind.SILENCE not in {fault.kind for fault in faults}


def test_processes_whose_memory_is_compared_are_not_ended_after_the_first_quarter() -> None:
    ended = [fault for fault in plan(7, 20 * MINUTES) if fault.kind in {Kind.KILL, Kind.STOP}]

    assert {fault.detail for fault in ended if fault.at < 5 * MINUTES} >= {*SPARED}
    assert not [f for f in ended if f.at > 5 * MINUTES and f.detail in SPARED]


@pytest.mark.parametrize("loop", ["realtime", "batch"])
def test_the_soaks_agent_is_typed_and_linted_in_a_project(
    loop: str, template: Path, environment: Path, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    put_together(project, template, {"loop": loop, "locks": "postgres"})
    # Beside the package, so that it is checked with the project's types.
    server = REPOSITORY / "soak" / "inside" / "server.py"
    (project / "tests" / "soak_server.py").write_text(server.read_text())
    counted = REPOSITORY / "fuzz" / "inside" / "service.py"
    (project / "tests" / "fuzz_service.py").write_text(counted.read_text())

    checked = subprocess.run(
        [
            *("pyright", "--pythonpath", environment / "bin" / "python"),
            *("src/my_agent/agent", "tests/soak_server.py", "tests/fuzz_service.py"),
        ],
        cwd=project,
        capture_output=True,
        text=True,
    )

    assert checked.returncode == 0, checked.stdout


def settled() -> tuple[Ledger, Answers]:
    """A run in which all is well: an action on two events, one turned down, one dead, one held, one refused."""
    kinds = {"gather": "a", "act": "b", "skip": "c", "raise": "d", "slow": "e", "deep": "f"}
    sent = {name: Sent(name, kind, "scope:1", b"") for kind, name in kinds.items()}
    statuses = dict.fromkeys("abc", Status("completed", None)) | {
        "d": Status("dlq", "ValueError: no"),
        "e": Status("held", None),
    }
    ledger = Ledger({*"abcde"}, {"action": ["a", "b"]}, {}, statuses, [("action", 2)])
    refused = {"f": sent.pop("f")}
    return ledger, Answers(sent, refused)


def broken(ledger: Ledger, answers: Answers) -> list[Check]:
    """Return the promises that were not kept."""
    return [check for check in checks(ledger, answers, batches=False) if not check.kept]


def test_an_account_in_which_all_is_well_has_every_promise_kept() -> None:
    assert not broken(*settled())


def test_an_event_that_is_completed_without_an_action_is_lost() -> None:
    ledger, answers = settled()
    ledger.actions = {"action": ["a"]}
    ledger.effects = [("action", 1)]

    [check] = broken(ledger, answers)

    assert "1 lost" in check.happened
    assert check.examples[0].startswith("b (act, scope:1): lost")


def test_an_acknowledged_event_that_is_not_in_the_log_is_lost() -> None:
    ledger, answers = settled()
    ledger.log.remove("c")

    [check] = broken(ledger, answers)

    assert "1 without a trace in the log" in check.happened


@pytest.mark.parametrize("status", ["pending", "processing", "failed"])
def test_an_event_that_is_not_settled_at_the_end_breaks_a_promise(status: str) -> None:
    ledger, answers = settled()
    ledger.statuses["c"] = Status(status, None)

    [check] = broken(ledger, answers)

    assert "1 not settled" in check.happened


def test_an_event_that_was_dropped_with_a_reason_is_accounted_for() -> None:
    ledger, answers = settled()
    ledger.statuses["e"] = Status("dropped", None)
    ledger.dropped["e"] = "held for too long"

    assert not broken(ledger, answers)


def test_an_event_in_two_actions_breaks_a_promise() -> None:
    ledger, answers = settled()
    ledger.actions["again"] = ["a"]
    ledger.effects.append(("again", 1))

    [check] = broken(ledger, answers)

    assert check.examples == ["a in 2"]


@pytest.mark.parametrize("effects", [[], [("action", 2)] * 2, [("action", 1)]])
def test_effects_that_do_not_happen_exactly_once_break_a_promise(
    effects: list[tuple[str, int]],
) -> None:
    ledger, answers = settled()
    ledger.effects = effects

    [check] = broken(ledger, answers)

    assert check.promise == "an action's database effects happen once"


def test_a_dead_letter_of_an_event_whose_decision_does_not_fail_breaks_a_promise() -> None:
    ledger, answers = settled()
    ledger.statuses["e"] = Status("dlq", "TooManyConnectionsError: no slot")

    [check] = broken(ledger, answers)

    assert check.examples == ["e (slow): TooManyConnectionsError: no slot"]


def test_a_dead_letter_without_a_reason_and_a_refused_event_that_is_stored_break_promises() -> None:
    ledger, answers = settled()
    ledger.statuses["d"] = Status("dlq", None)
    ledger.log.add("f")

    without_reason, stored = broken(ledger, answers)

    assert "1 dead-lettered without a reason" in without_reason.happened
    assert stored.examples == ["f"]


def test_an_event_that_is_never_answered_breaks_a_promise() -> None:
    ledger, answers = settled()
    answers.waiting["g"] = make("act", 1, "scope:1", "soak")

    [check] = broken(ledger, answers)

    assert check.promise == "every event is answered"


def test_memory_is_compared_between_the_second_and_the_last_quarter() -> None:
    samples = [Sample(at, 100.0 if at < 50 else 150.0) for at in range(0, 100, 5)]

    assert growth(samples, 100) == (100.0, 150.0)
    assert growth(samples[:4], 100) is None
