"""The projects that answers make: strictly typed, importable, and green in their own tests.

One project for each of the 36 behaviours, whose other answers are spread so that every two meet
somewhere. Whatever is the same in two projects is looked at once, and a module of tests only meets the
answers that its subject may depend on. They are tested from the beginning of the run, beside everything
else, which takes its turn when they leave it one.
"""

import re
import shutil
import subprocess
import tomllib
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path

import pytest

from demo.render import BUILD, REPOSITORY, git, render

from .combinations import ANSWERS_FILE, VALUES, Answers, Renderer, Trees, behaviours, named
from .conftest import ALONE, COUNTS, PROJECTS, SHARED, Project, sync
from .import_closure import Closures
from .own_tests import ACCIDENTS, MANY, WAITING_TESTS, OwnTests, Run, short_name

MODULES = REPOSITORY / "template" / "tests"
AT_ONCE = 2  # projects that are tested at the same time, each by up to four processes: more would meet limits
INJECTED: dict[str, tuple[Answers, list[str]]] = {
    "store": (
        {},
        [
            *("losing_nothing", "model", "plans", "surviving_memory", "contract", "replaying"),
            *("ending_decisions", "in_order", "waiting", "paying_once"),
        ],
    ),
    # The environments of projects have no browser's driver, so these skip their own tests of it.
    "console": ({}, ["console_axe", "console_browser", "console_hostile", "console_yours"]),
    "batch loop": ({"loop": "batch"}, ["ending_decisions", "waiting", "paying_once"]),
    "fleet with postgres": (
        {"locks": "postgres", "loop": "realtime"},
        ["fleet", "ending_decisions", "in_order", "waiting", "paying_once"],
    ),
    "fleet of batches": ({"locks": "postgres", "loop": "batch"}, ["in_order"]),
    "fleet with redis": (
        {"locks": "redis", "loop": "parallel"},
        ["fleet", "ending_decisions", "in_order", "waiting", "paying_once"],
    ),
}
"""What only this repository runs_with: the answers of a project, and the modules that are put into it."""

FIRST_RELEASE = next(iter(tomllib.loads((REPOSITORY / "releases.toml").read_text()).values()))
USUAL_LOOP = VALUES["loop"][0]

USUAL_TRIGGER = "error_threshold"
"""The trigger with which most is tried."""

AGENT_TESTS = ("agent",)
"""Modules of tests that are tried with every loop, trigger and kind of locks.

All others meet one trigger. Those that no list below has are tried with each loop, and so with each kind of locks:
in the projects of `is_in_turn`.
"""

STORE_TESTS = ("dropped", "held", "locks", "memory", "order", "outcomes", "scoped_locks")
"""Tests that run for every kind of locks with one loop: their subject is below the loops, and takes locks."""

PROCESS_TESTS = ("check", "light", "silent_connection", "start", "stop", "telemetry", "unavailable")
"""The same, for tests that start processes and watch them: with other locks, a process has other connections."""

ANSWER_INDEPENDENT_TESTS = (
    *("api", "api_clients", "backup", "breaker", "bytes", "cli", "cli_log", "cli_queue"),
    *("context", "cookbook", "dead_letter_search", "dead_letters", "deadlines", "deprecated"),
    "drafts",
    *("durable", "durable_agents", "durable_crashes", "durable_seen"),
    *("effects", "embedded", "erased", "erasing", "forward", "headers", "heartbeat"),
    *("hostile_rows", "hub", "indexes", "inspection", "intake", "isolation"),
    *("kept", "keys", "life", "listening", "migrations", "operators", "patterns", "pausing"),
    "pollers",
    *("prompt", "provider", "rates", "readable", "reads", "red_team", "refusals", "requests"),
    *("resources", "retention", "revisions", "roles", "service_ids", "session_ends", "signatures"),
    "sinks",
    *("sources", "store", "store_latest", "store_log", "store_operating", "store_publishing"),
    *("store_subscribers", "streams", "terminal", "text", "unit_keys", "unreadable", "versions"),
    *("webhooks", "why"),
)
"""Tests that depend on neither loops nor locks, which run once."""

INDEPENDENT_SUBJECTS = ("console",)
"""First words of the names of more such modules, as in `test_console_pages.py`."""

OWN_ENVIRONMENT = [("3.12", "memory"), ("3.13", "postgres"), ("3.13", "redis")]
"""Pythons and locks that are tried with what `uv sync` installs for just that project."""

SMOKE_TESTS = (
    "tests/test_agent.py",
    "tests/test_api.py",
    "tests/test_clients.py",
    "tests/test_service.py",
)
"""What is tried there even if it was in another environment: together they import everything."""


def share(projects: dict[str, Project], trees: Trees) -> None:
    """Give each module of tests to the first project in which all that it rests on is as it is."""
    own = set[tuple[str, str]]() if trees.before else {*OWN_ENVIRONMENT}
    known: set[tuple[str, str]] = set()
    for project in projects.values():
        closures = Closures(project.tree, trees.texts, project.answers["project_name"])
        place = (project.answers["python_version"], project.answers["locks"])
        alone = place in own
        if alone:
            own.discard(place)
            project.python = BUILD / f"env-{'-'.join(place)}" / "bin" / "python"
        for name in sorted(project.tree):
            if name.startswith("tests/test_"):
                key = (name, closures.tests_of(name))
                if (key not in known and runs_with(project.answers, name)) or (
                    alone and name in SMOKE_TESTS
                ):
                    project.modules.append(name)
                    known.add(key)
    if not trees.before:
        written = {name for project in projects.values() for name in project.tree}
        tests = {name for name in written if name.startswith("tests/test_")}
        assert {name for name, _ in known} == tests, "each module of tests is tried somewhere"


def runs_with(answers: Answers, module: str) -> bool:
    """Tell whether a module of tests is tried with these answers."""
    name = short_name(module)
    if name in AGENT_TESTS:
        return True
    usual_loop, usual_locks = (answers[each] == VALUES[each][0] for each in ("loop", "locks"))
    if name in STORE_TESTS or name in PROCESS_TESTS:
        usual = usual_loop
    elif is_independent(name):
        usual = usual_loop and usual_locks
    else:
        usual = is_in_turn(answers)
    return usual and answers["trigger"] == USUAL_TRIGGER


def is_independent(name: str) -> bool:
    """Tell whether a module of tests depends on neither loops nor locks."""
    return name in ANSWER_INDEPENDENT_TESTS or name.partition("_")[0] in INDEPENDENT_SUBJECTS


def is_in_turn(answers: Answers) -> bool:
    """Tell whether a loop has its turn with these locks.

    The loops take the kinds of locks in turn, so that each loop and each kind of locks has a project:

        reference  realtime  batch  parallel
        memory     postgres  redis  memory
    """
    loop, locks = (VALUES[each].index(answers[each]) for each in ("loop", "locks"))
    return loop % len(VALUES["locks"]) == locks


def test_each_module_that_is_named_here_exists() -> None:
    files = {path.name.removesuffix(".jinja") for path in MODULES.glob("test_*")}
    named_here = {
        *(*AGENT_TESTS, *STORE_TESTS, *PROCESS_TESTS, *ANSWER_INDEPENDENT_TESTS),
        *WAITING_TESTS,
    }

    assert not {name for name in named_here if f"test_{name}.py" not in files}


def test_each_loop_and_each_kind_of_locks_has_its_turn() -> None:
    in_turn = [answers for answers in behaviours() if is_in_turn(answers)]

    for question in ("loop", "locks"):
        assert {answers[question] for answers in in_turn} == {*VALUES[question]}


def test_a_module_of_an_unknown_subject_runs_with_every_loop() -> None:
    usual = [answers for answers in behaviours() if answers["trigger"] == USUAL_TRIGGER]

    assert {answers["loop"] for answers in usual if runs_with(answers, "tests/test_new.py")} == {
        *VALUES["loop"]
    }
    for name in ("console", "console_pages"):
        assert sum(runs_with(answers, f"tests/test_{name}.py") for answers in usual) == 1


@pytest.fixture(scope="session")
def tested(
    projects: dict[str, Project],
    trees: Trees,
    template: Path,
    environment: Path,
    cluster: str,
    axe: Path | None,
) -> Generator[dict[str, "Future[tuple[OwnTests, Run]]"]]:
    """The projects' own tests, each with what its run says."""
    share(projects, trees)
    with ExitStack() as stack:
        pool = ThreadPoolExecutor(AT_ONCE)
        stack.callback(pool.shutdown, cancel_futures=True)
        injected = () if trees.before else INJECTED
        # What takes longest begins first, or the end of the run would wait for it alone.
        longest = sorted(projects, key=lambda name: len(projects[name].modules), reverse=True)
        large = sum(len(project.modules) > MANY for project in projects.values())
        runs = {
            name: pool.submit(prepare_and_test, projects[name], cluster) for name in longest[:large]
        }
        runs |= {name: pool.submit(run_injected, name, template, axe) for name in injected}
        yield runs | {
            name: pool.submit(prepare_and_test, projects[name], cluster) for name in longest[large:]
        }


def prepare_and_test(project: Project, url: str) -> tuple[OwnTests, Run]:
    """Run a project's tests, in an environment of its own where that is what is to be tried."""
    tests = OwnTests(project, url)
    if not project.python.is_relative_to(SHARED):
        synced = sync(project.path, project.python.parent.parent)
        if synced.returncode != 0:
            return tests, synced
    return tests, tests.run()


def run_injected(name: str, template: Path, axe: Path | None) -> tuple[OwnTests, Run]:
    """Run injected tests in a project of their own."""
    answers, modules = INJECTED[name]
    path = PROJECTS / name.replace(" ", "-")
    render(path, template, answers)
    shutil.copytree(REPOSITORY / "tests" / "injected", path / "tests", dirs_exist_ok=True)
    released = git(
        "show",
        f"{FIRST_RELEASE}:variants/loops/{answers.get('loop', USUAL_LOOP)}.py",
        at=REPOSITORY,
    )
    (path / "src" / "my_agent" / "agent" / "released_loop.py").write_text(released)
    files = [f"tests/test_{module}.py" for module in modules]
    tests = OwnTests(Project(path, answers, {}, modules=files), None, axe)
    return tests, tests.run()


def test_projects_are_what_the_quick_renderer_says(
    projects: dict[str, Project], renderer: Renderer
) -> None:
    rendered = {name: project for name, project in projects.items() if project.by_copier}
    assert rendered or not projects
    for name, project in rendered.items():
        files = {
            str(path.relative_to(project.path)): path.read_bytes()
            for path in project.path.rglob("*")
            if path.is_file() and path.name != ANSWERS_FILE and path.suffix != ".pyc"
        }
        assert files == {path: renderer.texts[digest] for path, digest in project.tree.items()}, (
            name
        )


@pytest.mark.usefixtures("tested")
@pytest.mark.parametrize("locks", ["memory", "postgres", "redis"])
def test_every_dependency_is_imported_and_every_import_is_installed(
    projects: dict[str, Project], environment: Path, locks: str
) -> None:
    """Other answers have no dependencies of their own."""
    found = [each for each in projects.values() if each.answers["locks"] == locks]
    if not found:
        pytest.skip("--changed: no project with these locks has anything new")
    package = next((found[0].path / "src").iterdir()).name
    command = [environment / "bin" / "python", "-m", "deptry", ".", "--known-first-party", package]

    checked = subprocess.run(
        [*command, "--ignore", "DEP003,DEP004", "--no-ansi"],  # direct or not, it is installed
        cwd=found[0].path,
        capture_output=True,
        text=True,
    )

    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("name", [*INJECTED, *map(named, behaviours())])
def test_a_projects_own_tests_pass(
    tested: dict[str, "Future[tuple[OwnTests, Run]]"],
    name: str,
    request: pytest.FixtureRequest,
) -> None:
    if name not in tested:
        pytest.skip("--changed: it has nothing new that another project has not, too")
    tests, run = tested[name].result()

    if "No interpreter found" in run.stderr:
        pytest.skip(f"uv finds no such Python here, and cannot fetch one: {run.stderr[:200]}")
    alone = request.config.stash[ALONE]
    if tests.may_run_again and len(alone) < ACCIDENTS:
        wait(tested.values())
        if (again := tests.run_again()).returncode == 0:
            alone[name] = run.stdout
            run = again
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    if name == "console" and (left_out := re.search("^SKIPPED.*", run.stdout, re.MULTILINE)):
        pytest.skip(f"the console was not tried in a browser: {left_out[0]}")
    counts = request.config.stash[COUNTS]
    counts["tested"] = counts.get("tested", 0) + 1
