"""The documentation: it builds without a warning, and what it tells one to type works.

A block of code is run unless a comment before it says why not: `<!-- test: skip: reason -->`. Others are
`background`, `prints TEXT`, for what it has to print in the end, and `write PATH`, for a file.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from demo.__main__ import free_port
from demo.render import REPOSITORY

from .conftest import COUNTS, UV

PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md")])
BLOCK = re.compile(r"(?:<!-- test: (.+?) -->\n)?```(\w+)\n(.*?)```", re.DOTALL)
LANGUAGES = ("bash", "python")
PATIENCE = 60.0  # seconds that an effect may take on a busy machine
ELSEWHERE = {"extending.md": "tests/test_extending.py does what that page says"}
ADDRESS = "https://github.com/yourorg/reflex.git"  # what gh:yourorg/reflex means


@dataclass
class Block:
    """A piece of code that a page shows."""

    page: str
    how: str
    language: str
    text: str

    @property
    def is_left_out(self) -> bool:
        """Whether it is not run here, for a reason that it gives."""
        return self.how.startswith("skip: ") or self.page in ELSEWHERE


def blocks() -> list[Block]:
    """Return all code that is shown."""
    return [
        Block(page.name, how, language, text)
        for page in PAGES
        for how, language, text in BLOCK.findall(page.read_text())
        if language in LANGUAGES
    ]


def test_every_block_of_code_is_run_or_says_why_not() -> None:
    unruly = [
        f"{block.page}: {block.text[:60]!r}"
        for block in blocks()
        if not block.is_left_out and block.page != "tutorial.md"
    ]

    assert not unruly, "run them by the tutorial, or say why not"


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    sphinx = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going"]
    built = subprocess.run(
        [*sphinx, "docs", tmp_path], cwd=REPOSITORY, capture_output=True, text=True
    )

    assert built.returncode == 0, built.stderr
    assert "EVENT_MAX_ATTEMPTS" in (tmp_path / "operations.html").read_text(), "a rendered page"


def test_the_demo_shows_an_agent_at_work() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "demo"], cwd=REPOSITORY, capture_output=True, text=True
    )

    assert shown.returncode == 0, shown.stdout + shown.stderr
    steps = [line.split()[2] for line in shown.stdout.splitlines() if re.match(r" +\d+\.\d ", line)]
    picture = (REPOSITORY / "docs" / "demo.svg").read_text()
    assert {"event", "decide", "action", "ALERT", "REPLY"} == set(steps)
    assert all(step in picture for step in steps), "make picture draws a new one"


def test_the_tutorial_does_what_it_says(reader: "Reader", request: pytest.FixtureRequest) -> None:
    tutorial = [block for block in blocks() if block.page == "tutorial.md"]

    for block in tutorial:
        reader.follow(block)

    assert tutorial
    request.config.stash[COUNTS]["blocks of documentation"] = len(tutorial)


@pytest.fixture
def reader(template: Path, tmp_path: Path) -> "Generator[Reader]":
    """Somebody who follows pages, in an empty folder."""
    somebody = Reader(template, tmp_path)
    yield somebody
    somebody.stop()


class Reader:
    """Somebody who follows a page, in a shell."""

    def __init__(self, template: Path, home: Path) -> None:
        programs = home / "bin"
        programs.mkdir()
        # Somebody who presses Enter at each question.
        (programs / "uvx").write_text(
            f'#!/bin/sh\nprogram=$1; shift\nexec "{sys.executable}" -m "$program" "$@" --defaults\n'
        )
        (programs / "uvx").chmod(0o755)
        (programs / "uv").symlink_to(UV)
        self.home = self.place = home
        self.port = free_port()
        self.started: list[subprocess.Popen[bytes]] = []
        self.env = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"} | {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "API_PORT": str(self.port),
            "GIT_CONFIG_COUNT": "3",
            "GIT_CONFIG_KEY_0": f"url.file://{template}.insteadOf",
            "GIT_CONFIG_VALUE_0": ADDRESS,
            "GIT_CONFIG_KEY_1": "user.name",
            "GIT_CONFIG_VALUE_1": "Ada",
            "GIT_CONFIG_KEY_2": "user.email",
            "GIT_CONFIG_VALUE_2": "ada@example.com",
        }

    def follow(self, block: Block) -> None:
        """Do what a block says."""
        how, _, what = block.how.partition(" ")
        if how == "write":
            (self.place / what).write_text(block.text)
        elif how == "background":
            command = ["bash", "-c", f"exec {block.text.strip()}"]
            self.started.append(
                subprocess.Popen(command, cwd=self.place, env=self.env, start_new_session=True)
            )
            self.until_ready()
        elif how == "prints":
            self.until_printed(block.text, what)
        else:
            self.run(block.text)

    def run(self, text: str) -> str:
        """Run a script where the last one ended, and return what it printed."""
        where = self.home / "where"
        script = f"set -euo pipefail\n{text}\npwd > '{where}'"
        ran = subprocess.run(
            ["bash", "-c", script], cwd=self.place, env=self.env, capture_output=True, text=True
        )
        assert ran.returncode == 0, f"{text}\n{ran.stdout[-3000:]}{ran.stderr[-3000:]}"
        self.place = Path(where.read_text().strip())
        return ran.stdout

    def until_printed(self, text: str, expected: str) -> None:
        """Run a script again until it prints this, as somebody would who waits for something."""
        deadline = time.monotonic() + PATIENCE
        while expected not in (said := self.run(text)):
            assert time.monotonic() < deadline, f"{text}\nnever printed {expected!r}, but:\n{said}"
            time.sleep(0.5)

    def until_ready(self) -> None:
        """Wait until the service says that it is ready."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx2.TransportError):
                if httpx2.get(f"http://127.0.0.1:{self.port}/ready").is_success:
                    return
            time.sleep(0.2)
        raise AssertionError(f"the service was not ready after {PATIENCE} s")

    def stop(self) -> None:
        """End what runs in the background."""
        for process in self.started:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
