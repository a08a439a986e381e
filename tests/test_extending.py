"""An answer is one file away, and a question a few lines: a copy of the template gets what `docs/extending.md` shows."""

import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from demo.render import REPOSITORY, git, render

from .combinations import OFFERED, VALUES, Renderer, offered_by
from .owner import commit

PAGE = (REPOSITORY / "docs" / "extending.md").read_text()
SPOKEN = ("README.md", "AGENTS.md", "docs/operations.md")  # of what a project answered
ADDED = {"loop": "single", "trigger": "on_request", "locks": "files"}
"""The answers that the page adds."""

SHARED_BY = {"loop": len(OFFERED["loop"]), "trigger": len(OFFERED["trigger"]), "locks": 2}
"""How many answers share a line that is about none of them. Kinds of locks are alike in pairs: two reach across processes."""

WRITTEN = re.compile(r"`(variants/[\w./]+)`:\n\n```(?!diff)\w+\n(.*?)```", re.DOTALL)
CHANGED = re.compile(r"`([\w./{} ]+)`[^`\n]*:\n\n```diff\n(.*?)```", re.DOTALL)


def written() -> dict[str, str]:
    """Return the files that the page shows."""
    return dict(WRITTEN.findall(PAGE))


def change(text: str, diff: str) -> str:
    """Add the lines that a block marks with `+` where its other lines are, without those that it marks with `-`."""
    lines = diff.splitlines(keepends=True)
    place = "".join(line[1:] for line in lines if not line.startswith("+"))
    assert text.count(place) == 1, f"the page shows a place that is not in the file: {place}"
    return text.replace(place, "".join(line[1:] for line in lines if not line.startswith("-")))


@pytest.fixture
def extended(template: Path, tmp_path: Path) -> Path:
    """A copy of the template with all that the page adds."""
    copied = tmp_path / "reflex"
    shutil.copytree(template, copied)
    for name, text in written().items():
        (copied / name).parent.mkdir(exist_ok=True)
        (copied / name).write_text(text)
    for name, diff in CHANGED.findall(PAGE):
        file = copied / name
        file.write_text(change(file.read_text(), diff))
    commit(copied, "Add three answers and a question")
    return copied


def test_every_block_of_the_page_is_a_file_or_a_change_of_one() -> None:
    assert len(WRITTEN.findall(PAGE)) + len(CHANGED.findall(PAGE)) == PAGE.count("```") // 2


def test_answers_that_are_added_as_the_page_says_work(
    extended: Path, tmp_path: Path, environment: Path, cluster: str
) -> None:
    project = tmp_path / "project"

    render(project, extended, ADDED)

    package = project / "src" / "my_agent"
    assert (package / "agent" / "loop.py").read_text() == written()["variants/loops/single.py"]
    assert (package / "infra" / "locks.py").read_text() == written()[
        "variants/locks/files/locks.py"
    ]
    for command in (["ruff", "format", "--check"], ["ruff", "check"]):
        checked = subprocess.run(command, cwd=project, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout
    tests = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_agent.py"]
    tested = subprocess.run(
        [
            environment / "bin" / "python",
            *tests,
            "tests/test_locks.py",
            "tests/test_scoped_locks.py",
        ],
        cwd=project,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": "src", "DATABASE_URL": cluster},
        capture_output=True,
        text=True,
    )
    assert tested.returncode == 0, tested.stdout[-5000:] + tested.stderr[-2000:]


def test_a_question_that_is_added_as_the_page_says_is_asked_documented_and_used(
    extended: Path, tmp_path: Path
) -> None:
    url = "https://example.com/team/my-agent"
    render(tmp_path / "with", extended, {"repository_url": url})
    render(tmp_path / "without", extended)

    assert urls_of(tmp_path / "with") == {"Repository": url}
    assert urls_of(tmp_path / "without") is None
    copy = [
        "copier",
        "copy",
        "--defaults",
        "--vcs-ref",
        "HEAD",
        "--data",
        "repository_url=example.com",
    ]
    refused = subprocess.run(
        [*copy, extended, tmp_path / "refused"], capture_output=True, text=True
    )
    sentence = "  repository_url: write it like https://host/path."
    assert sentence in refused.stderr.partition("Traceback")[0]
    tests = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_questions.py"]
    tested = subprocess.run(
        [sys.executable, *tests, "-k", "repository_url or each_question"],
        cwd=extended,
        capture_output=True,
        text=True,
    )
    assert tested.returncode == 0, tested.stdout[-5000:] + tested.stderr[-2000:]
    assert "4 passed" in tested.stdout


def urls_of(project: Path) -> dict[str, str] | None:
    """Return the addresses in a project's metadata."""
    return tomllib.loads((project / "pyproject.toml").read_text())["project"].get("urls")


def test_the_pages_of_a_new_answer_name_it_and_have_nothing_of_another(
    extended: Path, renderer: Renderer, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    render(project, extended, ADDED)
    defaults = {name: values[0] for name, values in VALUES.items()}

    readme = (project / "README.md").read_text()
    assert "**Loop**: `single`, in `agent/loop.py`." in readme
    assert "**Trigger**: `on_request`, in `agent/triggers.py`." in readme
    assert "**Locks**: `files`, in `infra/locks.py`." in readme
    for page in SPOKEN:
        lines = set((project / page).read_text().splitlines())
        for question in ADDED:
            having = Counter[str]()
            for answer in OFFERED[question]:
                tree = renderer.tree({**defaults, question: answer})
                having.update(set(renderer.texts[tree[page]].decode().splitlines()))
            others = [line for line in lines if 0 < having[line] < SHARED_BY[question]]
            assert not others, f"{page} has of a new answer what is true of others: {others}"


def test_a_new_answer_is_in_every_combination_at_once(extended: Path) -> None:
    offered = offered_by(extended)

    assert all(answer in offered[question] for question, answer in ADDED.items())
    assert offered.keys() <= VALUES.keys(), "a question has choices that no combination tries"


def test_a_template_of_before_is_not_asked_for_a_new_answer(renderer: Renderer) -> None:
    defaults = {name: values[0] for name, values in VALUES.items()}

    assert renderer.offers(defaults)
    assert not renderer.offers({**defaults, "loop": "single"})


def test_the_last_commit_of_the_copy_is_the_only_difference(extended: Path) -> None:
    changed = git("diff", "--name-only", "HEAD~1", at=extended).splitlines()

    assert set(changed) == {
        "copier.yml",
        "docs/questions.md",
        "template/pyproject.toml.jinja",
        "tests/test_questions.py",
        "variants/answers/repository_url.jinja",
        "variants/messages/refused.jinja",
        "variants/loops/single.py",
        "template/src/{{ package_name }}/agent/triggers.py.jinja",
        "variants/locks/files/locks.py",
        "variants/locks/files/test_locks.py",
    }
