"""A rendered project as Docker Compose runs it: its commands, its API, and what its engine says of it."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from demo.ports import free_port

PATIENCE = 60  # seconds that an effect may take on a busy machine


@dataclass
class Stack:
    """A rendered project and its containers."""

    path: Path
    files: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict[str, str])
    key: str = ""

    def compose(self, *args: str) -> str:
        """Run Docker Compose, and return what it printed."""
        files = [part for file in self.files for part in ("--file", file)]
        return self.run("docker", "compose", *files, *args)

    def run(self, *args: str) -> str:
        """Run a program in the project, and return what it printed."""
        env = {**os.environ, **self.env}
        ran = subprocess.run(args, cwd=self.path, env=env, capture_output=True, text=True)
        assert ran.returncode == 0, f"{args}: {ran.stdout[-3000:]}{ran.stderr[-3000:]}"
        return ran.stdout

    def client(self) -> httpx2.Client:
        """Return a client of the API."""
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        url = f"http://127.0.0.1:{self.env['API_PORT']}"
        return httpx2.Client(base_url=url, headers=headers, timeout=10)


@contextmanager
def production_of(project: Path, *more_files: str, model_key: str) -> Generator[Stack]:
    """Give what `compose.prod.yaml` starts, on an image of this version, not started yet."""
    env = {"API_PORT": str(free_port()), "RELEASE": "1.2.3"}
    stack = Stack(project, ("compose.prod.yaml", *more_files), env)
    stack.run("make", "secrets")
    (project / "secrets" / "openai_api_key").write_text(model_key)
    stack.key = (project / "secrets" / "api_keys").read_text().strip()
    build = ("docker", "build", "--quiet", "--build-arg", "VERSION=1.2.3", "--tag", image_of(stack))
    stack.run(*build, "--file", "docker/Dockerfile", ".")
    try:
        yield stack
    finally:
        stack.compose("down", "--volumes")


def until(done: Callable[[], Any], what: str) -> float:
    """Wait until something is so, and return how many seconds that took."""
    begun = time.monotonic()
    while time.monotonic() - begun < PATIENCE:
        try:
            if done():
                return time.monotonic() - begun
        except httpx2.HTTPError:
            pass  # it is not there yet
        time.sleep(0.1)
    raise AssertionError(f"after {PATIENCE} s still not: {what}")


def image_of(stack: Stack) -> str:
    """Return the image that production runs."""
    images = json.loads(stack.compose("config", "--format", "json"))["services"]
    return str(images["api"]["image"])


def inspect(stack: Stack, kind: str, name: str, what: str) -> str:
    """Return one fact about an image or a container."""
    return stack.run("docker", kind, "inspect", "--format", what, name).strip()


def containers(stack: Stack) -> dict[str, str]:
    """Return the names of the running containers by their services."""
    printed = stack.compose("ps", "--format", "{{.Service}} {{.ID}}").splitlines()
    return dict(line.split(" ") for line in printed)
