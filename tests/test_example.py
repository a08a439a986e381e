"""The example: applied to a rendered project as its page says, it is clean, and one incident is one incident."""

import asyncio
import hmac
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit, urlunsplit
from urllib.request import Request, urlopen
from uuid import uuid4

import asyncpg
import pytest

from demo.ports import free_port
from demo.render import REPOSITORY, git, render

from .conftest import PLUGINS

EXAMPLE = REPOSITORY / "examples" / "incident"
SECRET = "a secret of the tests"  # noqa: S105 - protects nothing
PATIENCE = 240  # seconds
TESTS = ["tests/test_agent.py", "tests/test_red_team.py", "tests/test_headers.py"]
"""Those of the example, those of the tool that it keeps, and some that start production, where a webhook needs a secret."""


@pytest.fixture(scope="module")
def project(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The defaults with the example, as its page applies it."""
    path = tmp_path_factory.mktemp("example") / "my-agent"
    render(path, template)
    git("init", "--quiet", at=path)
    git("apply", str(EXAMPLE / "places.patch"), at=path)
    shutil.copytree(EXAMPLE / "files", path, dirs_exist_ok=True)
    return path


@pytest.fixture
def database_url(cluster: str) -> Generator[str]:
    """The URL of an empty database."""
    name = f"example_{uuid4().hex}"
    asyncio.run(execute(cluster, f'CREATE DATABASE "{name}"'))
    yield urlunsplit(urlsplit(cluster)._replace(path=f"/{name}"))
    asyncio.run(execute(cluster, f'DROP DATABASE "{name}" WITH (FORCE)'))


async def execute(url: str, statement: str) -> None:
    """Run a statement on a server."""
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    await connection.execute(statement)
    await connection.close()


def test_the_example_is_linted_formatted_and_strictly_typed(
    project: Path, environment: Path
) -> None:
    python = str(environment / "bin" / "python")
    types = ["pyright", "--pythonpath", python, "src", "tests/test_agent.py"]

    for command in (["ruff", "check"], ["ruff", "format", "--check"], types):
        checked = subprocess.run(command, cwd=project, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout


def test_its_own_tests_and_those_of_the_project_pass(
    project: Path, environment: Path, cluster: str
) -> None:
    tested = subprocess.run(
        [environment / "bin" / "python", "-m", "pytest", "-q", *PLUGINS, *TESTS],
        cwd=project,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": "src", "DATABASE_URL": cluster},
        capture_output=True,
        text=True,
    )

    assert tested.returncode == 0, tested.stdout[-5000:] + tested.stderr[-2000:]


def test_a_repeated_delivery_and_an_alert_are_one_incident_one_page_and_one_action(
    project: Path, environment: Path, database_url: str
) -> None:
    python = str(environment / "bin" / "python")
    with running([sys.executable, "-u", str(EXAMPLE / "outside.py"), "0"], os.environ) as outside:
        monitoring = first_line(outside)
        env = {
            **os.environ,
            "PYTHONPATH": str(project / "src"),
            "DATABASE_URL": database_url,
            "API_PORT": str(port := free_port()),
            "TIMERS": "{}",
            "EFFECTS": "on",
            "WEBHOOK_SECRETS": json.dumps({"github": SECRET}),
            "ALERTS_URL": f"{monitoring}/alerts",
            "PAGER_URL": f"{monitoring}/pages",
        }
        migrated = subprocess.run(
            [python, "-m", "my_agent", "migrate"], env=env, cwd=project, capture_output=True
        )
        assert migrated.returncode == 0, migrated.stderr.decode()
        service = f"http://127.0.0.1:{port}"
        with running([python, "-m", "my_agent", "serve"], env, project):
            until(lambda: send(f"{service}/ready")[0] == 200)

            forged = deliver(service, "another secret")
            first, again = deliver(service), deliver(service)
            fire(monitoring, "firing")
            until(lambda: send(f"{service}/incidents")[1])
            fire(monitoring, "resolved")
            until(lambda: send(f"{service}/events?type=agent.dropped")[1]["events"])

            incidents = send(f"{service}/incidents")[1]
            actions = send(f"{service}/events?type=agent.action")[1]["events"]
        outside.terminate()
        pages = outside.communicate()[0].splitlines()

    assert forged[0] == 401
    assert (first[1]["status"], again[1]["status"]) == ("published", "duplicate")
    [incident], [action], [page] = incidents, actions, pages
    assert (incident["id"], incident["commit"]) == (action["id"], "4f2d")
    assert action["covers"] == ["source:webhook:github:1", "source:poller:alerts:alert-0:firing"]
    assert page.startswith(f"Page {action['id']}/")


@contextmanager
def running(
    command: list[str], env: Any, cwd: Path | None = None
) -> Generator["subprocess.Popen[str]"]:
    """Run a process for the block."""
    log = None if cwd is None else subprocess.DEVNULL
    process = subprocess.Popen(
        command, env=env, cwd=cwd, text=True, stdout=log or subprocess.PIPE, stderr=log
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(PATIENCE)
        if process.stdout is not None:
            process.stdout.close()


def first_line(process: "subprocess.Popen[str]") -> str:
    """Return the first line that a process prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def send(url: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
    """Send a request; return the status and the parsed answer, or 0 if there is none."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with urlopen(Request(url, body, names), timeout=PATIENCE) as answer:  # noqa: S310 - ours
            return answer.status, json.load(answer)
    except HTTPError as error:
        with error:
            return error.code, error.read()
    except OSError:
        return 0, None


def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.2)


def deliver(service: str, secret: str = SECRET) -> tuple[int, Any]:
    """Deliver a deploy as GitHub does, each time with the same id."""
    status = {"state": "success", "created_at": datetime.now(UTC).isoformat()}
    deployment = {"sha": "4f2d", "environment": "production"}
    body = {"repository": {"name": "shop"}, "deployment": deployment, "deployment_status": status}
    content = json.dumps(body).encode()
    signature = hmac.digest(secret.encode(), content, "sha256").hex()
    return send(
        f"{service}/webhooks/github",
        content,
        X_GitHub_Event="deployment_status",
        X_GitHub_Delivery="1",
        X_Hub_Signature_256=f"sha256={signature}",
    )


def fire(monitoring: str, state: str) -> None:
    """Let an alert of the shop fire, or resolve."""
    alert = {"service": "shop", "rule": "errors", "state": state, "summary": "9 % of requests fail"}
    send(f"{monitoring}/alerts", json.dumps(alert).encode())
