"""Updates: from every release to what lies here, nothing that somebody wrote is lost or in conflict.

Plain `copier update`, without trust, in projects whose owners replaced the agent, wrote at their places,
and have events on their way in the database.
"""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from demo.render import REPOSITORY, git, render
from tools.release import VERSION

from .combinations import ALL_FIELDS
from .conftest import NEXT, RELEASES, SHARED
from .import_closure import STARTS_PROCESSES
from .owner import DELETED, HELLO, OURS, commit, make_it_mine

TRIAL = REPOSITORY / "tests" / "injected" / "in_flight.py"
TOUCHED = ("agent", "api", "architecture", "migrations", "revisions", "start", "trace", "versions")
"""Modules of tests that an owner's lines could break."""

SHAPES: dict[str, dict[str, str]] = {
    "defaults": {},
    "batch": {"loop": "batch", "trigger": "periodic_summary", "event_types": ALL_FIELDS},
    "realtime with postgres": {
        "loop": "realtime",
        "locks": "postgres",
        "event_types": "[job.done]",
    },
}


@dataclass
class Owned:
    """A project that somebody made their own, from some release."""

    path: Path
    template: Path

    def copier(self, *args: str, code: int = 0) -> str:
        """Run Copier in the project, without trust."""
        ran = subprocess.run(["copier", *args], cwd=self.path, capture_output=True, text=True)
        assert ran.returncode == code, ran.stdout + ran.stderr
        return ran.stdout + ran.stderr

    def update(self, **answers: str) -> str:
        """Update to the newest release, with other answers if given."""
        data = [part for name, value in answers.items() for part in ("--data", f"{name}={value}")]
        return self.copier("update", "--defaults", *data)

    def files(self, under: str = "") -> dict[str, str]:
        """Return the text of every file that git knows."""
        names = git("ls-files", "--cached", "--others", "--exclude-standard", at=self.path)
        paths = [self.path / name for name in names.splitlines() if name.startswith(under)]
        return {
            str(path.relative_to(self.path)): path.read_text() for path in paths if path.exists()
        }

    def run(self, *args: str | Path, **env: str) -> str:
        """Run Python with the project's code."""
        variables = {**os.environ, "PYTHONPATH": str(self.path / "src"), **env}
        command = [SHARED / "bin" / "python", *args]
        ran = subprocess.run(command, cwd=self.path, env=variables, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout[-5000:] + ran.stderr[-3000:]
        return ran.stdout


@pytest.fixture(params=RELEASES)
def version(request: pytest.FixtureRequest) -> str:
    """Each release."""
    return str(request.param)


@pytest.fixture
def owned(released: Path, version: str, tmp_path: Path, shape: str) -> Owned:
    """A project of a release, which its owner made their own."""
    path = tmp_path / "project"
    render(path, released, SHAPES[shape], version)
    make_it_mine(path)
    return Owned(path, released)


@pytest.fixture
def shape() -> str:
    """The answers of a project, unless a test takes several."""
    return "defaults"


def test_releases_are_versions_of_commits_in_the_history() -> None:
    for version, revision in RELEASES.items():
        assert VERSION.fullmatch(version), f"{version} is no version"
        assert re.fullmatch("[0-9a-f]{40}", revision), f"{version} needs the whole id of a commit"
        git("merge-base", "--is-ancestor", revision, "HEAD", at=REPOSITORY)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_update_keeps_what_the_owner_wrote_and_every_event_on_its_way(
    owned: Owned, cluster: str, version: str, shape: str, request: pytest.FixtureRequest
) -> None:
    agent, env = owned.files("src/my_agent/agent"), (owned.path / ".env").read_text()
    url = f"{cluster.rpartition('/')[0]}/update_{abs(hash(request.node.name))}"
    env_of_trial = {"DATABASE_URL": url, "EVENT_LEASE": "1", "TIMERS": "{}"}
    owned.run(TRIAL, "before", **env_of_trial)

    owned.update()

    after = owned.files()
    conflicts = [
        name for name, text in after.items() if re.search("^(<<<<<<<|>>>>>>>) ", text, re.M)
    ]
    assert not conflicts, f"an update met the owner's lines in {conflicts}"
    assert not [name for name in after if name.endswith(".rej")]
    assert owned.files("src/my_agent/agent") == agent, "the agent is its owner's, to the byte"
    assert "class RoomEnteredEvent" in after["src/my_agent/core/events.py"]
    assert HELLO in after["src/my_agent/core/deps.py"]
    assert '"/rooms": rooms' in after["src/my_agent/api/routes/__init__.py"]
    assert OURS in after["pyproject.toml"]
    assert (owned.path / ".env").read_text() == env
    assert not (owned.path / DELETED).exists(), "what was deleted stays deleted"
    assert "cover all 8 events" in owned.run(TRIAL, "after", **env_of_trial)
    tests = ["-m", "pytest", "-q", "-p", "no:cacheprovider"]
    some = {f"tests/test_{name}.py" for name in TOUCHED}
    if shape == "defaults" and version == next(
        iter(RELEASES)
    ):  # the code is the same after any update
        some |= {name for name in after if name.startswith("tests/test_") and is_quick(after[name])}
    owned.run(*tests, *sorted(some), DATABASE_URL=cluster)


def is_quick(module: str) -> bool:
    """Tell whether a module of tests starts no processes."""
    return not any(sign in module for sign in STARTS_PROCESSES)


def test_another_answer_on_update_changes_what_it_says_and_not_the_agent(owned: Owned) -> None:
    agent = owned.files("src/my_agent/agent")

    said = owned.update(
        locks="postgres", ci="none", event_types="[job.done]", loop="batch", trigger="immediate"
    )

    after = owned.files()
    assert owned.files("src/my_agent/agent") == agent
    assert "whatever you answered for loop and trigger" in " ".join(said.split())
    assert "pg_try_advisory_lock" in after["src/my_agent/infra/locks.py"]
    assert not [name for name in after if name.startswith(".github")]
    events = after["src/my_agent/core/events.py"]
    assert "JobDoneEvent" in events
    assert "RoomEnteredEvent" in events
    assert "ErrorReportedEvent" not in events
    assert not re.search("^<<<<<<< ", "\n".join(after.values()), re.MULTILINE)


def test_check_update_says_whether_there_is_a_newer_release(owned: Owned) -> None:
    owned.copier("check-update", "--quiet", code=2)

    owned.update()
    commit(owned.path, "Update")

    owned.copier("check-update", "--quiet", code=0)


def test_recopy_writes_over_the_agent(owned: Owned) -> None:
    owned.copier("recopy", "--defaults", "--overwrite", "--quiet")

    assert (
        "run_agent_loop" in (owned.path / "src" / "my_agent" / "agent" / "__init__.py").read_text()
    )


def test_a_new_question_answers_itself(owned: Owned) -> None:
    questions = owned.template / "copier.yml"
    old = questions.read_text()
    questions.write_text(old + '\nweather:\n  type: str\n  help: "?"\n  default: fine\n')
    commit(owned.template, "Ask for the weather")
    git("tag", "99.1.0", at=owned.template)
    try:
        owned.update()
    finally:
        git("tag", "--delete", "99.1.0", at=owned.template)
        git("reset", "--quiet", "--hard", NEXT, at=owned.template)

    assert "weather: fine" in (owned.path / ".copier-answers.yml").read_text()
