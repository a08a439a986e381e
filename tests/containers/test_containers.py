"""Containers, on a real Docker engine: `make containers`. Not part of `make test`, which needs no Docker.

Development comes up healthy, acts, reloads on an edit, and a stop under load loses nothing; production runs as
nobody on a read-only disk, with its API and its workers apart.
"""

import json
import os
import subprocess
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from demo.__main__ import free_port
from demo.render import render, snapshot

SHAPES: dict[str, dict[str, str]] = {
    "defaults": {"project_name": "Reflex Try"},
    "redis": {"project_name": "Reflex Try Redis", "locks": "redis", "loop": "realtime"},
}
PATIENCE = 60  # seconds that an effect may take on a busy machine
COLD = 120  # seconds from nothing to running that the PRD allows
FAILURE = {"type": "http.request", "source": "try", "method": "GET", "path": "/failed"}


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


@pytest.fixture(scope="module", params=SHAPES)
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rendered project of each shape."""
    template = snapshot(tmp_path_factory.mktemp("template") / "reflex")
    path = tmp_path_factory.mktemp("project") / "my-agent"
    render(path, template, SHAPES[request.param])
    return path


@pytest.fixture
def development(project: Path) -> Generator[Stack]:
    """What `docker compose up` starts."""
    stack = Stack(project, env={"API_PORT": str(free_port()), "POSTGRES_PORT": str(free_port())})
    try:
        yield stack
    finally:
        stack.compose("down", "--volumes")


@pytest.fixture
def production(project: Path) -> Generator[Stack]:
    """What `compose.prod.yaml` starts, on an image of this version."""
    stack = Stack(
        project, ("compose.prod.yaml",), {"API_PORT": str(free_port()), "VERSION": "1.2.3"}
    )
    stack.run("make", "secrets")
    (project / "secrets" / "openai_api_key").write_text("none-is-needed-to-start")
    stack.key = (project / "secrets" / "api_keys").read_text().strip()
    build = ("docker", "build", "--quiet", "--build-arg", "VERSION=1.2.3", "--tag", image_of(stack))
    stack.run(*build, "--file", "docker/Dockerfile", ".")
    try:
        yield stack
    finally:
        stack.compose("down", "--volumes")


def image_of(stack: Stack) -> str:
    """Return the image that production runs."""
    images = json.loads(stack.compose("config", "--format", "json"))["services"]
    return str(images["api"]["image"])


def inspect(stack: Stack, kind: str, name: str, what: str) -> str:
    """Return one fact about an image or a container."""
    return stack.run("docker", kind, "inspect", "--format", what, name).strip()


def test_development_acts_reloads_and_a_stop_under_load_loses_nothing(development: Stack) -> None:
    begun = time.monotonic()
    development.compose("build", "--no-cache")
    development.compose("up", "--detach", "--wait")
    cold = time.monotonic() - begun
    assert cold < COLD
    development.compose("down", "--volumes")
    begun = time.monotonic()
    development.compose("up", "--build", "--detach", "--wait")
    warm = time.monotonic() - begun

    with development.client() as client:
        for _ in range(5):
            assert client.post("/events", json=FAILURE).is_success
        acted = until(lambda: actions(client), "the agent acts on five failures")
        reloaded = edit(development, client)
        accepted, lost = stop_under_load(development, client)

    print(
        f"\n{development.path.parent.name}: up in {cold:.1f} s, and {warm:.1f} s once built,"
        f" action after {acted:.2f} s, reloaded"
        f" {reloaded:.1f} s after an edit, {accepted} accepted around a stop, {len(lost)} lost"
    )
    assert accepted > 100
    assert not lost


def actions(client: httpx2.Client) -> list[Any]:
    """Return what the agent did."""
    return client.get("/events", params={"type": "agent.action"}).json()["events"]


def edit(stack: Stack, client: httpx2.Client) -> float:
    """Change the service's name in its code; return how long it took until it was there."""
    module = next(stack.path.glob("src/*/__init__.py"))
    module.write_text(module.read_text().replace('TITLE = "', 'TITLE = "Edited '))
    return until(
        lambda: client.get("/openapi.json").json()["info"]["title"].startswith("Edited"),
        "the edit is there",
    )


def stop_under_load(stack: Stack, client: httpx2.Client) -> tuple[int, list[str]]:
    """Stop the service while producers send, start it again; return what was accepted, and what got lost."""
    accepted: list[str] = []

    def produce(number: int) -> None:
        for count in range(200):
            event = {**FAILURE, "id": f"{number}-{count}", "scope": f"load-{number}"}
            try:
                if client.post("/events", json=event).is_success:
                    accepted.append(event["id"])
            except httpx2.HTTPError:
                return  # it has stopped

    with ThreadPoolExecutor(4) as pool:
        load = [pool.submit(produce, number) for number in range(4)]
        until(lambda: len(accepted) > 100, "events are accepted")
        stack.compose("stop", "app")
        for each in load:
            each.result()
    stack.compose("up", "--detach", "--wait")

    def settled(event_id: str) -> bool:
        deliveries = client.get(f"/events/{event_id}").json()["deliveries"]
        return all(each["status"] in {"held", "completed"} for each in deliveries)

    left = set(accepted)

    def all_settled() -> bool:
        left.difference_update([event_id for event_id in left if settled(event_id)])
        return not left

    until(all_settled, "every accepted event is handled")
    return len(accepted), sorted(left)


def test_production_runs_apart_as_nobody_on_a_read_only_disk(production: Stack) -> None:
    image = image_of(production)
    size = int(inspect(production, "image", image, "{{.Size}}"))
    user = inspect(production, "image", image, "{{.Config.User}}")
    version = inspect(
        production, "image", image, '{{index .Config.Labels "org.opencontainers.image.version"}}'
    )

    begun = time.monotonic()
    production.compose("up", "--detach", "--wait")
    up = time.monotonic() - begun

    running = json.loads(f"[{','.join(production.compose('ps', '--format', 'json').split())}]")
    api = next(each["Name"] for each in running if each["Service"] == "api")
    assert {each["Service"] for each in running} >= {"api", "worker", "db"}
    assert {each["Health"] for each in running} == {"healthy"}
    assert inspect(production, "container", api, "{{.HostConfig.ReadonlyRootfs}}") == "true"
    assert (user, version) == ("10001:10001", "1.2.3")
    environment = inspect(production, "container", api, "{{.Config.Env}}")
    assert production.key not in environment, "secrets are files"
    assert not production.run("docker", "exec", api, "sh", "-c", "command -v pip uv gcc || true")
    with production.client() as client:
        posted = client.post("/events", json=FAILURE).json()["id"]
        until(
            lambda: client.get(f"/events/{posted}").json()["deliveries"][0]["status"] == "held",
            "a worker took the event",
        )
    production.compose("stop")
    ended = production.compose("ps", "--all", "--format", "{{.Service}} {{.ExitCode}}").split("\n")
    assert {"api 0", "migrate 0", "worker 0"} <= set(ended), ended
    print(f"\n{image}: {size / 1e6:.0f} MB, user {user}, up in {up:.1f} s on a read-only disk")


def test_the_pipeline_s_own_trial_of_an_image_succeeds(production: Stack) -> None:
    said = production.run("bash", ".github/smoke.sh", image_of(production))

    assert said.strip().endswith("works"), said
