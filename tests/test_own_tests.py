"""How the own tests of projects are run: a failure beside others has one more run, and a fault stays a failure."""

import sys
from pathlib import Path

import pytest

from .conftest import Project
from .own_tests import MOST_FAILURES, OwnTests

ONCE = """
from pathlib import Path

def test_that_passes():
    pass

def test_that_fails_at_first():
    seen = Path("seen")
    assert seen.exists() or seen.touch()
"""
ALWAYS = "def test_that_fails():\n    assert False\n"
OFTEN = f"""
import pytest

@pytest.mark.parametrize("number", range({MOST_FAILURES}))
def test_that_fails(number):
    assert False
"""


def own_tests(path: Path, text: str) -> OwnTests:
    """A project with one module of tests."""
    (path / "src" / "pack").mkdir(parents=True)
    (path / "tests").mkdir()
    (path / "tests" / "test_agent.py").write_text(text)
    project = Project(path, {}, {}, python=Path(sys.executable), modules=["tests/test_agent.py"])
    return OwnTests(project, "postgresql://is-not-used")


@pytest.mark.parametrize(
    ("text", "passes_alone"),
    [(ONCE, True), (ALWAYS, False), (ONCE + ALWAYS, False)],
    ids=["once", "always", "one of each"],
)
def test_what_failed_has_one_more_run_in_which_a_fault_fails_again(
    text: str, passes_alone: bool, tmp_path: Path
) -> None:
    tests = own_tests(tmp_path, text)

    assert tests.run().returncode != 0
    assert tests.may_run_again
    again = tests.run_again()

    assert (again.returncode == 0) is passes_alone
    assert "test_that_passes" not in again.stdout
    assert "1 passed" in again.stdout if text == ONCE else "1 failed" in again.stdout


@pytest.mark.parametrize("text", [OFTEN, "import nothing_of_this_name"], ids=["many", "import"])
def test_what_is_no_accident_has_no_second_run(text: str, tmp_path: Path) -> None:
    tests = own_tests(tmp_path, text)

    assert tests.run().returncode != 0
    assert not tests.may_run_again


def test_what_passes_needs_no_second_run(tmp_path: Path) -> None:
    tests = own_tests(tmp_path, "def test_that_passes():\n    pass\n")

    assert tests.run().returncode == 0
    assert not tests.may_run_again
