"""A new answer is one file away: what `docs/extending.md` says is done to a copy of the template."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from demo.render import REPOSITORY, git, render

from .combinations import OFFERED, VALUES, Renderer, offered_by
from .owner import commit

PAGE = (REPOSITORY / "docs" / "extending.md").read_text()
SPOKEN = ("README.md", "AGENTS.md", "docs/operations.md")  # of what a project answered


def block(name: str) -> str:
    """Return the block of code that the page gives for a file."""
    found = re.search(rf"`{re.escape(name)}`:\n\n```\w+\n(.*?)```", PAGE, re.DOTALL)
    assert found, f"docs/extending.md shows no {name}"
    return found[1]


@pytest.fixture
def extended(template: Path, tmp_path: Path) -> Path:
    """A copy of the template with the page's loop and trigger."""
    copied = tmp_path / "reflex"
    shutil.copytree(template, copied)
    for name in ("variants/loops/single.py", "variants/triggers/on_request/triggers.py"):
        (copied / name).parent.mkdir(exist_ok=True)
        (copied / name).write_text(block(name))
    agents = "variants/triggers/{}/agents.py"
    shutil.copy(copied / agents.format("immediate"), copied / agents.format("on_request"))
    questions = copied / "copier.yml"
    text = questions.read_text()
    for last, added in re.findall(r"```yaml\n(.*?)\n\+ (.*?)\n```", PAGE, re.DOTALL):
        assert last in text, "the page shows a line that copier.yml does not have"
        text = text.replace(last, f"{last}\n{added}")
    questions.write_text(text)
    commit(copied, "Add a loop and a trigger")
    return copied


def test_a_loop_and_a_trigger_that_are_added_as_the_page_says_work(
    extended: Path, tmp_path: Path, environment: Path, cluster: str
) -> None:
    project = tmp_path / "project"

    render(project, extended, {"loop": "single", "trigger": "on_request"})

    loop = project / "src" / "my_agent" / "agent" / "loop.py"
    assert loop.read_text() == block("variants/loops/single.py")
    for command in (["ruff", "format", "--check"], ["ruff", "check"]):
        checked = subprocess.run(command, cwd=project, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout
    tests = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_agent.py"]
    tested = subprocess.run(
        [environment / "bin" / "python", *tests],
        cwd=project,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": "src", "DATABASE_URL": cluster},
        capture_output=True,
        text=True,
    )
    assert tested.returncode == 0, tested.stdout[-5000:] + tested.stderr[-2000:]


def test_the_pages_of_a_new_answer_name_it_and_say_nothing_of_another(
    extended: Path, renderer: Renderer, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    render(project, extended, {"loop": "single", "trigger": "on_request"})
    defaults = {name: values[0] for name, values in VALUES.items()}
    trees = [
        renderer.tree({**defaults, question: answer})
        for question in ("loop", "trigger")
        for answer in OFFERED[question]
    ]

    readme = (project / "README.md").read_text()
    assert "**Loop**: `single`, in `agent/loop.py`." in readme
    assert "**Trigger**: `on_request`, in `agent/triggers.py`." in readme
    for page in SPOKEN:
        of_others = [set(renderer.texts[tree[page]].decode().splitlines()) for tree in trees]
        said = set((project / page).read_text().splitlines())
        others = said & set[str]().union(*of_others) - of_others[0].intersection(*of_others)
        assert not others, f"{page} says of a new answer what is true of others: {others}"


def test_a_new_answer_is_in_every_combination_at_once(extended: Path) -> None:
    offered = offered_by(extended)

    assert "single" in offered["loop"]
    assert "on_request" in offered["trigger"]
    assert offered.keys() <= VALUES.keys(), "a question has choices that no combination tries"


def test_a_template_of_before_is_not_asked_for_a_new_answer(renderer: Renderer) -> None:
    defaults = {name: values[0] for name, values in VALUES.items()}

    assert renderer.offers(defaults)
    assert not renderer.offers({**defaults, "loop": "single"})


def test_the_last_commit_of_the_copy_is_the_only_difference(extended: Path, template: Path) -> None:
    assert git("diff", "--name-only", "HEAD~1", at=extended).split() == [
        "copier.yml",
        "variants/loops/single.py",
        "variants/triggers/on_request/agents.py",
        "variants/triggers/on_request/triggers.py",
    ]
