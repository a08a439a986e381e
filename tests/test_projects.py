"""The projects that answers make: each formatted, linted, typed, and green in its own tests.

One project for every value of every choice, one for several at once. Projects with the same code
are tested once, all in one environment; the types of all are checked in two runs.
"""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from demo.render import BUILD, REPOSITORY, render

UV = REPOSITORY / ".tools" / "bin" / "uv"
SHARED = BUILD / "test-env"
ALL_FIELDS = (
    "{order.placed: {order_id: str, count: int, total: float, paid: bool, at: datetime,"
    " tags: [str], sizes: 'list[int]?', note: 'str?'}, order.paid: {}}"
)

PROJECTS: dict[str, dict[str, str]] = {
    "defaults": {},
    **{
        f"license={value}": {"license": value}
        for value in ("Apache-2.0", "BSD-3-Clause", "proprietary")
    },
    "python_version=3.13": {"python_version": "3.13"},
    "ci=none": {"ci": "none"},
    "event_types=none": {"event_types": "[]"},
    "event_types=names": {"event_types": "[order.placed, order.paid]"},
    "event_types=all": {"event_types": ALL_FIELDS},
    **{f"loop={value}": {"loop": value} for value in ("realtime", "batch", "parallel")},
    **{f"trigger={value}": {"trigger": value} for value in ("immediate", "periodic_summary")},
    **{f"locks={value}": {"locks": value} for value in ("postgres", "redis")},
    "several": {
        "loop": "batch",
        "trigger": "periodic_summary",
        "locks": "postgres",
        "event_types": "{order.placed: {order_id: str, total: float}, order.paid: {order_id: str}}",
    },
    "longest names": {"project_name": "A" * 39 + "z", "package_name": "a" * 30},
}
STORE = "store"  # the defaults, with the trials of the store that only this repository needs
TRIALS = ("test_losing_nothing.py", "test_model.py", "test_plans.py")
QUICK = ["-m", "not crash"]  # enough where only names or events differ


@pytest.fixture(scope="session")
def projects(template: Path) -> dict[str, Path]:
    """All projects, rendered."""
    home = BUILD / "projects"
    paths = {name: home / name.replace(" ", "-") for name in PROJECTS}

    def make(name: str) -> None:
        subprocess.run(["rm", "-rf", paths[name]], check=True)
        render(paths[name], template, PROJECTS[name])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(make, PROJECTS))
    paths[STORE] = home / STORE
    shutil.rmtree(paths[STORE], ignore_errors=True)
    shutil.copytree(paths["defaults"], paths[STORE])
    shutil.copytree(REPOSITORY / "tests" / "trials", paths[STORE] / "tests", dirs_exist_ok=True)
    shutil.copytree(REPOSITORY / "benchmarks", paths[STORE] / "benchmarks")
    return paths


@pytest.fixture(scope="session")
def environment(projects: dict[str, Path]) -> Path:
    """One environment with what any of the projects needs, as the one with Redis does."""
    sync(projects["locks=redis"], SHARED)
    more = [
        part
        for folder in ("benchmarks", "tests/trials")
        for part in ("-r", REPOSITORY / folder / "requirements.txt")
    ]
    install = [UV, "pip", "install", "--quiet", "--python", SHARED / "bin" / "python", *more]
    subprocess.run(install, check=True, capture_output=True, text=True)
    return SHARED


def sync(project: Path, target: Path) -> subprocess.CompletedProcess[str]:
    """Install a project's dependencies, but not the project."""
    env = {**os.environ, "UV_PROJECT_ENVIRONMENT": str(target)}
    env.pop("VIRTUAL_ENV", None)
    # Compiled once, or every process that a test starts would do so for itself, and take twice as long.
    command = [UV, "sync", "--quiet", "--no-install-project", "--compile-bytecode"]
    return subprocess.run(command, cwd=project, env=env, capture_output=True, text=True)


def code_of(project: Path) -> str:
    """A digest of what a project's tests could notice."""
    digest = hashlib.sha256()
    for folder in ("src", "tests", "scripts"):
        for path in sorted((project / folder).rglob("*.py")):
            digest.update(str(path.relative_to(project)).encode() + path.read_bytes())
    digest.update((project / ".env.example").read_bytes())
    return digest.hexdigest()


def run_tests(project: Path, environment: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a project's own tests on its own PostgreSQL, and leave nothing of that behind."""
    env = {**os.environ, "PYTHONPATH": str(project / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    env.pop("DATABASE_URL", None)
    command = [environment / "bin" / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    tested = subprocess.run(
        [*command, *options], cwd=project, env=env, capture_output=True, text=True
    )
    package = next((project / "src").iterdir()).name
    clean = f"from {package}.infra.embedded import cluster_of as c; from pathlib import Path as P; c(P('.')).remove()"
    subprocess.run([environment / "bin" / "python", "-c", clean], cwd=project, env=env, check=True)
    return tested


@pytest.fixture(scope="session")
def tested(
    projects: dict[str, Path], environment: Path
) -> Generator[dict[str, "Future[subprocess.CompletedProcess[str]]"]]:
    """The runs of the projects' own tests, two at a time; projects of the same code share one."""
    runs: dict[str, Future[subprocess.CompletedProcess[str]]] = {}
    by_code: dict[str, Future[subprocess.CompletedProcess[str]]] = {}
    pool = ThreadPoolExecutor(2)
    for name, project in projects.items():
        if name == "python_version=3.13":
            continue
        code = code_of(project)
        if code not in by_code:
            quick = QUICK if name.startswith(("event_types", "longest")) else []
            options = [f"tests/{trial}" for trial in TRIALS] if name == STORE else quick
            by_code[code] = pool.submit(run_tests, project, environment, *options)
        runs[name] = by_code[code]
    yield runs
    pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("name", PROJECTS)
def test_a_project_is_formatted_and_linted(projects: dict[str, Path], name: str) -> None:
    for command in (["format", "--check", "--diff"], ["check"]):
        checked = subprocess.run(
            ["ruff", *command, "."], cwd=projects[name], capture_output=True, text=True
        )
        assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("redis", [False, True], ids=["others", "redis"])
def test_the_types_of_all_projects_hold(
    projects: dict[str, Path], environment: Path, redis: bool
) -> None:
    """Strictly; the client of Redis leaves some of its own types open."""
    chosen = {name: path for name, path in projects.items() if (name == "locks=redis") is redis}
    distinct = {code_of(path): path for path in chosen.values()}
    config = {
        "typeCheckingMode": "strict",
        "reportMissingTypeStubs": not redis,
        "reportUnknownMemberType": not redis,
        "venvPath": str(environment.parent),
        "venv": environment.name,
        "include": [
            f"{path.name}/{part}"
            for path in distinct.values()
            for part in ("src", "tests", "scripts", "benchmarks")
            if (path / part).exists()
        ],
        "executionEnvironments": [
            {"root": path.name, "extraPaths": [f"{path.name}/src"], "pythonVersion": "3.12"}
            for path in distinct.values()
        ],
    }
    file = BUILD / "projects" / f"pyrightconfig-{redis}.json"
    file.write_text(json.dumps(config, indent=2))

    checked = subprocess.run(["pyright", "--project", file], capture_output=True, text=True)

    assert checked.returncode == 0, checked.stdout[-5000:]


@pytest.mark.parametrize(
    "name", [STORE, *(name for name in PROJECTS if name != "python_version=3.13")]
)
def test_a_projects_own_tests_pass(
    tested: dict[str, "Future[subprocess.CompletedProcess[str]]"], name: str
) -> None:
    run = tested[name].result()

    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]


def test_a_projects_own_tests_pass_on_python_3_13(
    projects: dict[str, Path], tested: object
) -> None:
    project, target = projects["python_version=3.13"], BUILD / "test-env-3.13"
    if sync(project, target).returncode != 0:
        pytest.skip("there is no Python 3.13 here, and uv cannot fetch one")

    run = run_tests(project, target, *QUICK)

    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
