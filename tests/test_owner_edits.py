"""Edits for an agent that an older release rendered: `docs/updating.md` shows them, and here they are made.

No update touches an agent. So each release's agent, as it was rendered, gets every edit that the page has for it;
then its project is updated, and the agent has to please the linter, the type checker and its own tests.
"""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from demo.render import REPOSITORY

from .combinations import VALUES
from .conftest import PLUGINS, RELEASES
from .owned import OF_THE_OWNER, Releases, untouched, write_all
from .owner import commit

PAGE = (REPOSITORY / "docs" / "updating.md").read_text()
SECTION = re.compile(r"^### An `agent/` of (\S+)\n(.*?)(?=^##|\Z)", re.DOTALL | re.MULTILINE)
EDIT = re.compile(
    r"(?:^<!-- edit: (?P<question>\w+) (?P<answer>\w+) -->\n)?^```diff\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
SECTIONS: dict[str, str] = dict(SECTION.findall(PAGE))
BEHAVIOURS = (
    ("reference", "error_threshold"),
    ("realtime", "immediate"),
    ("batch", "periodic_summary"),
    ("parallel", "error_threshold"),
)
"""Every loop and every trigger, of which an agent is made."""

CHECKED = ("src/my_agent/agent", "tests/test_agent.py")


@dataclass(frozen=True)
class Edit:
    """One edit of the page."""

    text: str
    question: str | None
    answer: str | None

    def is_for(self, answers: dict[str, str]) -> bool:
        """Tell whether a project with these answers has what is edited."""
        return self.question is None or answers[self.question] == self.answer

    @property
    def files(self) -> list[str]:
        """The paths that it changes."""
        return re.findall(r"^\+\+\+ b/(\S+)$", self.text, re.MULTILINE)


def edits_of(version: str) -> list[Edit]:
    """Return the edits that the page has for a release's agent, in its order; a release may need none."""
    section = SECTIONS.get(version, "")
    return [
        Edit(found["text"], found["question"], found["answer"]) for found in EDIT.finditer(section)
    ]


def run(project: Path, *command: str | Path, text: str | None = None, **env: str) -> None:
    """Run a command in the project, which must succeed."""
    ran = subprocess.run(
        command, cwd=project, env=os.environ | env, input=text, capture_output=True, text=True
    )
    assert ran.returncode == 0, f"{text or command}\n{ran.stdout[-5000:]}{ran.stderr[-3000:]}"


def test_every_edit_of_the_page_is_of_a_release_and_of_a_file_that_is_the_owners() -> None:
    edits = [edit for version in RELEASES for edit in edits_of(version)]

    assert SECTIONS.keys() <= RELEASES.keys(), "a section names a release: ### An `agent/` of 1.2.3"
    assert edits
    assert len(edits) == PAGE.count("```diff")
    for edit in edits:
        assert edit.files, "an edit names its files: +++ b/src/my_agent/agent/..."
        assert all(name.startswith(OF_THE_OWNER) for name in edit.files), edit.files


def tried() -> list[tuple[str, str, str]]:
    """Return each release with each behaviour; if no edit depends on an answer, with one of them."""
    return [
        (version, *behaviour)
        for version in RELEASES
        for behaviour in (
            BEHAVIOURS if any(edit.question for edit in edits_of(version)) else BEHAVIOURS[:1]
        )
    ]


@pytest.mark.parametrize(("version", "loop", "trigger"), tried())
def test_an_older_agent_with_the_edits_of_the_page_works_after_an_update(
    version: str,
    loop: str,
    trigger: str,
    released: Path,
    releases: Releases,
    environment: Path,
    cluster: str,
    tmp_path: Path,
) -> None:
    """With the first behaviour, Copier updates the project. `test_updates.py` shows what others become by that."""
    project = tmp_path / "project"
    answers = {"loop": loop, "trigger": trigger, "event_types": VALUES["event_types"][0]}
    by_copier = (loop, trigger) == BEHAVIOURS[0]
    if by_copier:
        untouched(released, project, version, answers)
    else:
        write_all(project, releases.before(version, answers))
        run(project, "git", "init", "--quiet")

    for edit in edits_of(version):
        if edit.is_for(answers):
            run(project, "git", "apply", "-", text=edit.text)
    if by_copier:
        commit(project, "Edit the agent")
        run(project, "copier", "update", "--defaults", "--quiet")
    else:
        edited = {
            str(path.relative_to(project)): path.read_bytes()
            for path in project.rglob("*")
            if path.is_file() and ".git" not in path.relative_to(project).parts
        }
        write_all(project, releases.after(edited, answers))

    python = environment / "bin" / "python"
    run(project, "ruff", "format", "--check", *CHECKED)
    run(project, "ruff", "check", *CHECKED)
    run(project, "pyright", "--pythonpath", python, *CHECKED)
    tests = ("-m", "pytest", "-q", "-p", "no:cacheprovider", *PLUGINS, "tests/test_agent.py")
    source = str(project / "src")
    run(project, python, *tests, PYTHONPATH=source, DATABASE_URL=cluster)
