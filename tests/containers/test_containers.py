"""Containers, on a real Docker engine: `make containers`. Not part of `make test`, which needs no Docker.

Development comes up healthy, acts, reloads on an edit, and a stop under load loses nothing; production runs beside
it in the same folder, as nobody on a read-only disk, with its API and its workers apart.
"""

import itertools
import json
import re
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from demo.ports import free_port
from demo.render import render, snapshot

from .stack import PATIENCE, Stack, containers, image_of, inspect, production_of, until

SHAPES: dict[str, dict[str, str]] = {
    "defaults": {"project_name": "Reflex Try"},
    "redis": {"project_name": "Reflex Try Redis", "locks": "redis", "loop": "realtime"},
}
COLD = 120  # seconds from nothing to running that the PRD allows
AT_ONCE = 10  # seconds that a stop takes at most when nothing is to be finished
TERMINATED = "143"  # exit code: by SIGTERM
TOOLS = "pip uv gcc cc make"  # what an image has no use for
FAILURE = {"type": "http.request", "source": "try", "method": "GET", "path": "/failed"}


@pytest.fixture(scope="module", params=SHAPES)
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rendered project of each shape, in a folder that is called like it."""
    template = snapshot(tmp_path_factory.mktemp("template") / "reflex")
    name = SHAPES[request.param]["project_name"].lower().replace(" ", "-")
    path = tmp_path_factory.mktemp("project") / name
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
    with production_of(project, model_key="none-is-needed-to-start") as stack:
        yield stack


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
        load = stop_under_load(development)
        left = unanswered(development, client, load.accepted)

    print(
        f"\n{development.path.name}: up in {cold:.1f} s, and {warm:.1f} s once built,"
        f" action after {acted:.2f} s, reloaded"
        f" {reloaded:.1f} s after an edit; stopped in {load.stopped:.1f} s under load:"
        f" {len(load.accepted)} accepted, {load.while_stopping} of them while it stopped, {len(left)} lost"
    )
    assert load.interrupted == [True] * PRODUCERS
    assert load.while_stopping > 0
    assert not left


def test_commands_of_the_makefile_work_beside_a_running_service_and_alone(
    development: Stack,
) -> None:
    development.compose("up", "--build", "--detach", "--wait")
    with development.client() as client:
        posted = client.post("/events", json=FAILURE).json()["id"]
    running = containers(development)
    # As in another shell, which does not know of the port that this one chose.
    other = Stack(development.path, env={**development.env, "POSTGRES_PORT": str(free_port())})

    beside = replayed(other)
    still = containers(development)
    development.compose("stop")
    alone = replayed(development)

    by_script = scripted(development)

    assert posted in beside
    assert posted in alone
    assert posted in by_script
    assert still == running


def replayed(stack: Stack) -> set[str]:
    """Return the ids of the events that `make replay` prints, and nothing but events."""
    printed = stack.run("make", "--silent", "replay", "ARGS=--last 1h")
    return {json.loads(line)["id"] for line in printed.splitlines()}


def scripted(stack: Stack) -> set[str]:
    """Return the ids of the events that the script prints in a container of its own."""
    script = ("python", "scripts/replay.py", "--last", "1h")
    printed = stack.compose("run", "--rm", "--no-deps", "-T", "app", *script)
    return {json.loads(line)["id"] for line in printed.splitlines()}


def test_exported_keys_reach_the_container(project: Path) -> None:
    (project / ".env").write_text("OPENAI_API_KEY=of-env-file\nGOOGLE_API_KEY=of-env-file\n")
    stack = Stack(project, env={"OPENAI_API_KEY": "exported", "LOGFIRE_TOKEN": "exported"})

    config = json.loads(stack.compose("config", "--format", "json"))
    (project / ".env").unlink()

    given = config["services"]["app"]["environment"]
    assert (given["OPENAI_API_KEY"], given["LOGFIRE_TOKEN"]) == ("exported", "exported")
    assert given["GOOGLE_API_KEY"] == "of-env-file"


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


PRODUCERS = 4


@dataclass
class Load:
    """What came of a stop under load."""

    accepted: list[str] = field(default_factory=list[str])
    interrupted: list[bool] = field(default_factory=list[bool])
    """Of each producer: whether it was going on until it was refused."""
    stopped: float = 0.0
    while_stopping: int = 0


def stop_under_load(stack: Stack) -> Load:
    """Stop the service while producers send, and start it again."""
    load = Load()
    deadline = time.monotonic() + PATIENCE

    def produce(number: int) -> bool:
        with stack.client() as client:
            for count in itertools.count():
                event = {**FAILURE, "id": f"{number}-{count}", "scope": f"load-{number}"}
                try:
                    if client.post("/events", json=event).is_success:
                        load.accepted.append(event["id"])
                except httpx2.HTTPError:
                    return True
                if time.monotonic() > deadline:
                    break
        return False

    with ThreadPoolExecutor(PRODUCERS) as pool:
        producers = [pool.submit(produce, number) for number in range(PRODUCERS)]
        until(lambda: len(load.accepted) > 100, "events are accepted")
        assert not any(each.done() for each in producers)
        before, begun = len(load.accepted), time.monotonic()
        stack.compose("stop", "app")
        load.stopped = time.monotonic() - begun
        load.interrupted = [each.result() for each in producers]
    load.while_stopping = len(load.accepted) - before
    stack.compose("up", "--detach", "--wait")
    return load


def unanswered(stack: Stack, client: httpx2.Client, accepted: list[str]) -> list[str]:
    """Return which events are neither in a memory nor covered by an action, once that changes no more."""
    left = set(accepted)

    def held(event_id: str) -> bool:
        deliveries = client.get(f"/events/{event_id}").json()["deliveries"]
        return any(each["status"] == "held" for each in deliveries)

    def none_left() -> bool:
        left.difference_update(covered(stack))
        left.difference_update([event_id for event_id in left if held(event_id)])
        return not left

    try:
        until(none_left, "every accepted event is held or answered")
    except AssertionError:
        pass  # the caller says which
    return sorted(left)


def covered(stack: Stack) -> set[str]:
    """Return the ids of all events that actions answered."""
    command = ("--types", "agent.action", "--last", "1h")
    printed = stack.compose("exec", "-T", "app", stack.path.name, "replay", *command)
    return {each for line in printed.splitlines() for each in json.loads(line)["covers"]}


def test_production_runs_apart_as_nobody_on_a_read_only_disk(
    development: Stack, production: Stack
) -> None:
    development.compose("up", "--detach", "--wait", "db")
    before = containers(development)
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
    confined(production, [each["Name"] for each in running])
    look = f"for tool in {TOOLS}; do command -v $tool; done; true"
    assert not production.run("docker", "exec", api, "sh", "-c", look)
    with production.client() as client:
        posted = client.post("/events", json=FAILURE).json()["id"]
        until(
            lambda: client.get(f"/events/{posted}").json()["deliveries"][0]["status"] == "held",
            "a worker took the event",
        )
    production.compose("stop")
    ended = production.compose("ps", "--all", "--format", "{{.Service}} {{.ExitCode}}").split("\n")
    assert {"api 0", "migrate 0", "worker 0"} <= set(ended), ended
    assert containers(development) == before, "development's database is another"
    print(f"\n{image}: {size / 1e6:.0f} MB, user {user}, up in {up:.1f} s on a read-only disk")


def confined(stack: Stack, names: list[str]) -> None:
    """No container can gain a privilege, has a capability, is root, or writes to its disk."""
    for name in names:
        host = json.loads(inspect(stack, "container", name, "{{json .HostConfig}}"))
        assert host["ReadonlyRootfs"], name
        assert host["CapDrop"] == ["ALL"], name
        assert not host["CapAdd"], name
        assert host["SecurityOpt"] == ["no-new-privileges:true"], name
        user = inspect(stack, "container", name, "{{.Config.User}}")
        assert user in {"10001:10001", "postgres", "redis"}, name
        status = stack.run("docker", "exec", name, "cat", "/proc/1/status")
        assert re.findall(r"Cap(?:Prm|Eff|Bnd):\s*(\w+)", status) == ["0" * 16] * 3, name


def test_the_service_has_a_role_that_changes_no_schema_in_new_and_in_old_volumes(
    development: Stack, production: Stack
) -> None:
    for stack, service in ((development, "app"), (production, "api")):
        owner = psql(stack, "SELECT current_user")
        stack.compose("up", "--detach", "--wait")
        assert roles(stack, owner) == [f"{owner}_service"], "of a new volume"

        stack.compose("stop", service)
        psql(stack, f"DROP OWNED BY {owner}_service; DROP ROLE {owner}_service")
        stack.compose("up", "--detach", "--wait")
        assert roles(stack, owner) == [f"{owner}_service"], "of a volume from before"
        with stack.client() as client:
            assert client.post("/events", json=FAILURE).is_success

    api = production.compose("ps", "--quiet", "api").strip()
    assert production.run("docker", "exec", api, "ls", "/run/secrets").split() == sorted(
        ["api_keys", "database_url", "openai_api_key"]
    )


def psql(stack: Stack, statement: str) -> str:
    """Run a statement as the owner, once the database is up, and return its result."""
    stack.compose("up", "--detach", "--wait", "db")
    package = stack.path.name.replace("-", "_")
    return stack.compose("exec", "-T", "db", "psql", "-U", package, "-Atqc", statement).strip()


def roles(stack: Stack, owner: str) -> list[str]:
    """Return the roles of the service's connections, none of which may create or own anything."""
    assert psql(stack, f"SELECT has_schema_privilege('{owner}_service', 'public', 'CREATE')") == "f"
    owned = "SELECT relname FROM pg_class JOIN pg_roles r ON r.oid = relowner"
    assert psql(stack, f"{owned} WHERE rolname LIKE '%_service'") == ""
    return psql(
        stack, "SELECT DISTINCT usename FROM pg_stat_activity WHERE application_name = 'agent'"
    ).split()


def test_a_backup_is_restored_by_the_commands_of_the_page(production: Stack) -> None:
    production.compose("up", "--detach", "--wait")
    with production.client() as client:
        kept = client.post("/events", json=FAILURE).json()["id"]

        def is_held() -> bool:
            return client.get(f"/events/{kept}").json()["deliveries"][0]["status"] == "held"

        until(is_held, "a worker took the event")
        production.run("sh", "-ec", shell_of(production, "Backup"))
        later = client.post("/events", json=FAILURE).json()["id"]

        production.run("sh", "-ec", shell_of(production, "Restore"))

        assert is_held()
        assert client.get(f"/events/{later}").status_code == 404, "it came after the backup"
        new = client.post("/events", json=FAILURE).json()["id"]
        until(
            lambda: client.get(f"/events/{new}").json()["deliveries"][0]["status"] == "held",
            "the workers go on",
        )


def shell_of(stack: Stack, heading: str) -> str:
    """Return the commands under a heading of the project's page for operators."""
    page = (stack.path / "docs" / "operations.md").read_text()
    section = page.split(f"\n### {heading}\n", 1)[1].split("\n### ", 1)[0]
    return section.split("```bash\n", 1)[1].split("```", 1)[0]


def test_what_is_still_starting_or_migrating_stops_at_once(production: Stack) -> None:
    production.compose("up", "--detach", "--wait", "db")
    production.compose("create")
    ended: dict[str, tuple[float, str]] = {}

    for service in ("migrate", "api", "worker"):
        name = production.compose("ps", "--all", "--quiet", service).split()[0]
        production.run("docker", "start", name)  # without what it depends on
        begun = time.monotonic()
        production.compose("stop", service)
        took = time.monotonic() - begun
        ended[service] = took, inspect(production, "container", name, "{{.State.ExitCode}}")

    print(f"\nstopped while starting: {ended}")
    assert all(took < AT_ONCE and code == TERMINATED for took, code in ended.values())


def test_the_pipeline_s_own_trial_of_an_image_succeeds(production: Stack) -> None:
    said = production.run("bash", ".github/smoke.sh", image_of(production))

    assert said.strip().endswith("works"), said
