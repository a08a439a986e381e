"""What tests of the template stand on: this repository as a clean commit, whatever lies uncommitted."""

import os
import shutil
import subprocess
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from pytest_copie.plugin import Copie, Result

from demo.render import BUILD, REPOSITORY, render, snapshot

from .combinations import Answers, Renderer, behaviours, named

UV = REPOSITORY / ".tools" / "bin" / "uv"
SHARED = BUILD / "test-env"
PROJECTS = BUILD / "projects"

collect_ignore = ["trials"]  # runs in a rendered project

type Copy = Callable[..., Result]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one commit: the working tree."""
    return snapshot(tmp_path_factory.mktemp("template") / "reflex")


@pytest.fixture(scope="session")
def renderer(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    """What renders many projects quickly."""
    return Renderer(template, tmp_path_factory.mktemp("scratch"))


@pytest.fixture(scope="session")
def questions() -> dict[str, dict[str, Any]]:
    """The questions that are asked, by name."""
    config = yaml.safe_load((REPOSITORY / "copier.yml").read_text())
    return {
        name: question
        for name, question in config.items()
        if not name.startswith("_") and question.get("when") is not False
    }


@dataclass
class Project:
    """A rendered project, and which of its tests are to be run."""

    path: Path
    answers: Answers
    tree: dict[str, str]
    """The digests of its files by their paths."""
    python: Path = SHARED / "bin" / "python"
    modules: list[str] = field(default_factory=list[str])


@pytest.fixture(scope="session")
def projects(renderer: Renderer, template: Path) -> dict[str, Project]:
    """A project for each behaviour, rendered by Copier."""
    made = {named(answers): answers for answers in behaviours()}
    trees = {name: renderer.tree(answers) for name, answers in made.items()}
    shutil.rmtree(PROJECTS, ignore_errors=True)

    def make(number: int, name: str) -> Project:
        path = PROJECTS / f"{number:02}"
        render(path, template, made[name])
        return Project(path, made[name], trees[name])

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(make, range(len(made)), made))
    return dict(zip(made, found, strict=True))


@pytest.fixture(scope="session")
def environment(projects: dict[str, Project]) -> Path:
    """One environment with what any of the projects needs, as one with Redis does."""
    with_redis = next(
        project
        for project in projects.values()
        if (project.answers["locks"], project.answers["python_version"]) == ("redis", "3.12")
    )
    synced = sync(with_redis.path, SHARED)
    assert synced.returncode == 0, synced.stderr
    more = [
        part
        for folder in ("benchmarks", "tests/trials")
        for part in ("-r", REPOSITORY / folder / "requirements.txt")
    ]
    install = [UV, "pip", "install", "--quiet", "--python", SHARED / "bin" / "python", *more]
    subprocess.run(install, check=True, capture_output=True, text=True)
    return SHARED


@pytest.fixture(scope="session")
def cluster(projects: dict[str, Project], environment: Path) -> Generator[str]:
    """The URL of a PostgreSQL that the tests of all projects share."""
    source = projects["defaults"].path / "src"
    server = subprocess.Popen(
        [
            environment / "bin" / "python",
            REPOSITORY / "tests" / "trials" / "cluster.py",
            BUILD / "cluster",
        ],
        env={**os.environ, "PYTHONPATH": str(source)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    yield server.stdout.readline().strip()
    server.stdin.close()
    server.wait()
    server.stdout.close()


def sync(project: Path, target: Path) -> subprocess.CompletedProcess[str]:
    """Install a project's dependencies, but not the project."""
    env = {**os.environ, "UV_PROJECT_ENVIRONMENT": str(target)}
    env.pop("VIRTUAL_ENV", None)
    # Compiled once, or every process that a test starts would do so for itself, and take twice as long.
    command = [UV, "sync", "--quiet", "--no-install-project", "--compile-bytecode"]
    return subprocess.run(command, cwd=project, env=env, capture_output=True, text=True)


@pytest.fixture
def copy(template: Path, questions: dict[str, Any], copie: Copie) -> Copy:
    """Render a project from answers that are not defaults."""

    def copy(**answers: str) -> Result:
        assert set(answers) <= set(questions), "an answer is to no question"
        return copie.copy(answers, template, "HEAD")  # pyright: ignore[reportUnknownMemberType] - its dict is untyped

    return copy
