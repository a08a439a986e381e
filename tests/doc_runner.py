"""Somebody who reads pages and does what their blocks of code say.

How a block is treated is said in a few words:

- `skip: REASON`: it is not run
- `as in PAGE`: all its commands stand in that page, whose turn comes elsewhere
- `write PATH`: it is what that file says, whatever its language
- `background`: it is a server, and goes on when it is ready
- `watch`: it prints what happens meanwhile
- `shows TEXT`: after it, what is watched prints that
- `prints TEXT`: it prints that, in the end
- `type LINE`: it takes lines, and answers each with an `ack`
- `collect`: it is run, except that Pytest only looks for its tests
- `only FILES`: it is run, except that Pytest runs no others: all of them are run elsewhere
- `dead letter`: it is run with the id of one in place of EVENT_ID
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import httpx2

from demo.ports import free_port
from demo.render import git

from .conftest import AFTER_NEXT, UV
from .owner import commit

RUN = ("bash", "python")
ELSEWHERE = {"extending.md": "tests/test_extending.py does what that page shows"}
PATIENCE = 240.0  # seconds that an effect may take on a busy machine
ADDRESS = "https://github.com/yourorg/reflex.git"  # what gh:yourorg/reflex means
PRESSES_ENTER = """#!/bin/sh
program=$1; shift
case "$*" in
  check-update*|*--defaults*) ;;
  *) set -- "$@" --defaults ;;
esac
exec "{python}" -m "$program" "$@"
"""
"""Stands for `uvx`, and somebody who presses Enter at each question."""

GIVE_UP = """
import asyncio, asyncpg
from my_agent.serving import ensure_database

async def give_up(dsn):
    connection = await asyncpg.connect(dsn)
    await connection.execute("UPDATE deliveries SET dead_at = now(), held_at = NULL WHERE held_at IS NOT NULL")
    print(await connection.fetchval("SELECT e.id FROM events e JOIN deliveries d USING (seq) WHERE dead_at IS NOT NULL"))
    await connection.close()

with ensure_database() as settings:
    asyncio.run(give_up(settings.dsn))
"""
"""Makes dead letters of what is held, as no command does, and prints the id of one."""

CLEAN_UP = """
from pathlib import Path
from my_agent.infra.process.embedded import cluster_of

cluster_of(Path.cwd()).remove()
"""
"""Deletes the project's database, which for root is not in its folder."""


@dataclass
class Block:
    """A piece of code that a page shows."""

    page: str
    how: str
    language: str
    text: str

    @property
    def is_run(self) -> bool:
        """Whether it is to be run or written, rather than only to be read."""
        return bool(self.how) or self.language in RUN

    @property
    def is_left_out(self) -> bool:
        """Whether it is not run here, for a reason that it gives."""
        return self.how.startswith(("skip: ", "as in ")) or self.page in ELSEWHERE

    @property
    def commands(self) -> set[str]:
        """Its lines, without comments."""
        lines = (line.partition("  #")[0].strip() for line in self.text.splitlines())
        return {line for line in lines if line}


class DocRunner:
    """Somebody who follows pages, in a shell, with a clone of the template in which the next release is tagged."""

    def __init__(self, released: Path, home: Path) -> None:
        programs = home / "bin"
        programs.mkdir()
        (programs / "uvx").write_text(PRESSES_ENTER.format(python=sys.executable))
        (programs / "uvx").chmod(0o755)
        (programs / "uv").symlink_to(UV)
        self.template = home / "reflex"
        git("clone", "--quiet", str(released), str(self.template), at=home)
        self.home = self.place = home
        self.port = free_port()
        self.started: list[subprocess.Popen[bytes]] = []
        self.watched = home / "watched"
        self.served = home / "served"
        self.env = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"} | {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "GIT_CONFIG_COUNT": "3",
            "GIT_CONFIG_KEY_0": f"url.file://{self.template}.insteadOf",
            "GIT_CONFIG_VALUE_0": ADDRESS,
            "GIT_CONFIG_KEY_1": "user.name",
            "GIT_CONFIG_VALUE_1": "Ada",
            "GIT_CONFIG_KEY_2": "user.email",
            "GIT_CONFIG_VALUE_2": "ada@example.com",
        }

    def follow(self, blocks: Iterable[Block]) -> int:
        """Do what blocks say, and return how many that were."""
        todo = [block for block in blocks if block.is_run and not block.is_left_out]
        for block in todo:
            self.do(block)
        return len(todo)

    def do(self, block: Block) -> None:
        """Do what a block says."""
        how, _, what = block.how.partition(" ")
        # Whoever reads has a port of their own, since others may use that of the page.
        text = re.sub(r"\blocalhost:800[01]\b", f"127.0.0.1:{self.port}", block.text)
        match how:
            case "":
                self.run(text)
            case "write":
                (self.place / what).write_text(block.text)
            case "background":
                self.start(text, self.served)
                self.until_ready()
            case "watch":
                self.start(text, self.watched)
            case "shows":
                self.until_shown(text, what)
            case "prints":
                self.until_printed(text, what)
            case "type":
                self.type(text, what)
            case "collect":
                self.run(text, PYTEST_ADDOPTS="--collect-only --quiet")
            case "only":
                self.run(text, PYTEST_ADDOPTS=what)
            case "dead":
                event_id = self.run(f"python - <<'END'\n{GIVE_UP}\nEND").strip()
                assert event_id in self.run(text.replace("EVENT_ID", event_id))
            case _:
                raise AssertionError(f"{block.page}: {block.how!r} is nothing that can be done")

    def run(self, text: str, **env: str) -> str:
        """Run a script where the last one ended, and return what it printed."""
        where = self.home / "where"
        script = f"set -euo pipefail\n{text}\npwd > '{where}'"
        ran = subprocess.run(
            ["bash", "-c", script],
            cwd=self.place,
            env=self.env | env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, f"{text}\n{ran.stdout[-5000:]}{ran.stderr[-3000:]}"
        self.place = Path(where.read_text().strip())
        return ran.stdout

    def start(self, text: str, output: Path) -> None:
        """Start a command that goes on, and whose output goes into a file."""
        with output.open("wb") as file:
            command = ["bash", "-c", f"exec {text.strip()}"]
            process = subprocess.Popen(
                command,
                cwd=self.place,
                env=self.env | {"API_PORT": str(self.port)},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started.append(process)

    def until_printed(self, text: str, expected: str) -> None:
        """Run a script again until it prints this, as somebody would who waits for something."""
        deadline = time.monotonic() + PATIENCE
        while expected not in (said := self.run(text)):
            assert time.monotonic() < deadline, f"{text}\nnever printed {expected!r}, but:\n{said}"
            time.sleep(0.5)

    def until_shown(self, text: str, expected: str) -> None:
        """Run a script, again if need be, until what is watched prints this: it does not say when it begins."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            self.run(text)
            for _ in range(50):
                if expected in self.watched.read_text():
                    return
                time.sleep(0.1)
        raise AssertionError(f"{text}\nnever led to {expected!r}, but:\n{self.watched.read_text()}")

    def type(self, text: str, line: str) -> None:
        """Type a line into a command, and see that it is answered."""
        typed = self.run(f"(sleep 3; echo '{line}'; sleep 3) | {text}")
        assert '"ack"' in typed, typed

    def release_another_version(self) -> None:
        """Add a file to the template."""
        (self.template / "template" / "NEWS.md").write_text("New.\n")
        commit(self.template, "Release")
        git("tag", AFTER_NEXT, at=self.template)

    def until_ready(self) -> None:
        """Wait until the service says that it is ready."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self.started[-1].poll() is None:
            with contextlib.suppress(httpx2.TransportError):
                if httpx2.get(f"http://127.0.0.1:{self.port}/ready").is_success:
                    return
            time.sleep(0.2)
        printed = self.served.read_text()[-5000:]
        raise AssertionError(
            f"the service was not ready within {PATIENCE} s; it printed:\n{printed}"
        )

    def stop(self) -> None:
        """End what runs in the background."""
        for process in self.started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()
        self.started.clear()

    def leave(self) -> None:
        """End what runs in the background, and leave nothing behind."""
        self.stop()
        if (self.place / ".venv").exists():
            self.run(f".venv/bin/python - <<'END'\n{CLEAN_UP}\nEND")
