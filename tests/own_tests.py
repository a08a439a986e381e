"""Runs the own tests of a rendered project: in a few processes, and what failed there once more, alone.

Many tests watch what a process does in time, while others take the processors. What fails then may be the doing of the
others, so it has a second run when these have ended. Most faults of the code fail alone, too. The run says at its end which
tests needed the second, with what they said at first: those are to be mended, and more than a few are a failure.
"""

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from demo.render import BUILD

from .conftest import PLUGINS, Project

MANY = 40  # modules of tests: one process would still run them when all others have long finished
MOST_FAILURES = 5  # of a process, which stops then: they are no accident
ACCIDENTS = 5  # projects of a run that may need a second one
FAILED = BUILD / "failed"

WAITING_TESTS = ("outages", "silent_connection", "stop")
"""What mostly waits until limits pass. A project's other modules are tried meanwhile."""

type Run = subprocess.CompletedProcess[str]


@dataclass
class OwnTests:
    """Some of a project's own tests, on a shared server or, without `url`, on one of the project's own."""

    project: Project
    url: str | None
    axe: Path | None = None
    may_run_again: bool = field(default=False, init=False)
    """Whether some failed, but so few that it may be an accident."""
    _failed: dict[int, list[str]] = field(default_factory=dict[int, list[str]], init=False)

    def run(self) -> Run:
        """Run them; the outcome is that of the first process that failed."""
        waiting = [name for name in self.project.modules if short_name(name) in WAITING_TESTS]
        working = [name for name in self.project.modules if name not in waiting]
        shares = 3 if len(working) > MANY else 1
        parts = [*(working[each::shares] for each in range(shares)), waiting]
        numbered = {number: modules for number, modules in enumerate(parts) if modules}
        for number in numbered:
            shutil.rmtree(self._failures(number), ignore_errors=True)

        with ThreadPoolExecutor(len(parts)) as pool:
            runs = dict(
                zip(numbered, pool.map(self._run, numbered, numbered.values()), strict=True)
            )
        self._remove_server()
        failed = {number: run for number, run in runs.items() if run.returncode != 0}
        self._failed = {number: numbered[number] for number in failed}
        self.may_run_again = bool(failed) and all(
            run.returncode == pytest.ExitCode.TESTS_FAILED
            and f"stopping after {MOST_FAILURES}" not in run.stdout
            for run in failed.values()
        )
        return together([*runs.values()])

    def run_again(self) -> Run:
        """Run only those that failed, one process after the other."""
        only_failed = ("--last-failed", "--last-failed-no-failures=none")
        runs = [self._run(*part, *only_failed) for part in self._failed.items()]
        self._remove_server()
        return together(runs)

    def _run(self, number: int, modules: list[str], *options: str) -> Run:
        project = self.project
        command = [
            *(project.python, "-m", "pytest", "-q", "-rs", f"--maxfail={MOST_FAILURES}"),
            *("-o", f"cache_dir={self._failures(number)}", *options),
            *(PLUGINS if project.tree else ()),
            *modules,
        ]
        return subprocess.run(
            command, cwd=project.path, env=self._env, capture_output=True, text=True
        )

    @property
    def _env(self) -> dict[str, str]:
        src = self.project.path / "src"
        env = {**os.environ, "PYTHONPATH": str(src), "AXE": str(self.axe or "")}
        env.pop("DATABASE_URL", None)
        return env if self.url is None else env | {"DATABASE_URL": self.url}

    def _failures(self, number: int) -> Path:
        return FAILED / f"{self.project.path.name}-{number}"

    def _remove_server(self) -> None:
        """Delete the data of the server that the tests may have started, which is outside of their folder for root."""
        if self.url is not None and self.project.modules == ["tests/test_agent.py"]:
            return  # the agent's own tests start none
        package = next((self.project.path / "src").iterdir()).name
        clean = f"from {package}.infra.process.embedded import cluster_of as c; from pathlib import Path as P; c(P('.')).remove()"
        subprocess.run(
            [self.project.python, "-c", clean], cwd=self.project.path, env=self._env, check=True
        )


def together(runs: list[Run]) -> Run:
    """Return one run with the output of those that failed; of all, if none has."""
    failed = [run for run in runs if run.returncode != 0]
    outputs = [
        "".join(text)
        for text in zip(*((run.stdout, run.stderr) for run in failed or runs), strict=True)
    ]
    return subprocess.CompletedProcess("", failed[0].returncode if failed else 0, *outputs)


def short_name(module: str) -> str:
    """Return the name of a module of tests without what all of them have."""
    return module.removeprefix("tests/test_").removesuffix(".py")
