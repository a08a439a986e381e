"""Projects of releases, as their owners have them before an update and after it."""

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from demo.render import BUILD, git, render

from .combinations import VALUES, Answers, Renderer
from .owner import commit, make_it_mine

SHARED = BUILD / "test-env"
"""The environment that most projects share."""

SHOW_ALL = "always::DeprecationWarning"
OF_THE_OWNER = ("src/my_agent/agent/", "tests/test_agent.py", "tests/test_red_team.py")
"""The paths that an update leaves alone, as `_exclude` of `copier.yml` lists them."""


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
        return ran.stdout + ran.stderr


class Stock:
    """Projects that several tests begin with. Each is made once, as Copier needs seconds; every test gets a copy."""

    def __init__(self, template: Path, home: Path) -> None:
        self._template = template
        self._home = home
        self._made: dict[tuple[str, str, str], Path] = {}

    def owned(self, version: str, answers: Answers, target: Path) -> Owned:
        """Copy a project of a release that its owner made their own, and committed."""

        def make(path: Path) -> None:
            render(path, self._template, answers, version)
            make_it_mine(path)

        return self._copy("owned", version, answers, make, target)

    def updated(self, version: str, answers: Answers, target: Path) -> Owned:
        """Copy the same project after its update, which is not committed."""

        def make(path: Path) -> None:
            self.owned(version, answers, path).update()

        return self._copy("updated", version, answers, make, target)

    def _copy(
        self, kind: str, version: str, answers: Answers, make: Callable[[Path], None], target: Path
    ) -> Owned:
        key = kind, version, repr(answers)
        if key not in self._made:
            path = self._home / str(len(self._made)) / kind
            make(path)
            self._made[key] = path
        shutil.copytree(self._made[key], target)
        return Owned(target, self._template)


class Releases:
    """What quickly renders untouched projects of releases, and what updates make of them."""

    def __init__(self, template: Path, newest: Renderer, home: Path) -> None:
        self._template = template
        self._newest = newest
        self._home = home
        self._renderers: dict[str, Renderer] = {}

    def before(self, version: str, answers: Answers) -> dict[str, bytes]:
        """Return the files of a project of a release."""
        if version not in self._renderers:
            checkout = self._home / version
            git(
                "clone",
                "--quiet",
                "--branch",
                version,
                str(self._template),
                str(checkout),
                at=self._home,
            )
            self._renderers[version] = Renderer(checkout, self._home / f"scratch-of-{version}")
        return files_of(self._renderers[version], answers)

    def after(self, before: dict[str, bytes], answers: Answers) -> dict[str, bytes]:
        """Return the files of an untouched project after its update: new ones, but for those of its owner."""
        new = files_of(self._newest, answers)
        return {name: text for name, text in new.items() if not name.startswith(OF_THE_OWNER)} | {
            name: text for name, text in before.items() if name.startswith(OF_THE_OWNER)
        }


def files_of(renderer: Renderer, answers: Answers) -> dict[str, bytes]:
    """Return the files of a project with these answers, the answers file aside."""
    every = {name: values[0] for name, values in VALUES.items()} | answers
    return {name: renderer.texts[digest] for name, digest in renderer.tree(every).items()}


def write_all(project: Path, files: dict[str, bytes]) -> None:
    """Make a folder with just these files."""
    shutil.rmtree(project, ignore_errors=True)
    for name, text in files.items():
        path = project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text)


def untouched(released: Path, path: Path, version: str, answers: Answers) -> Owned:
    """Render a project of a release with Copier, and commit it as it is."""
    render(path, released, answers, version)
    git("init", "--quiet", at=path)
    commit(path, "Start")
    return Owned(path, released)
