"""`make release`: it refuses what is not ready with a sentence, and otherwise makes two commits."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from demo.render import REPOSITORY, git

from .owner import commit

GREEN = "def test_updates() -> None: ...\n"
RED = "def test_updates() -> None:\n    raise AssertionError\n"
FIRST = '"0.1.0" = '
COMMIT = tomllib.loads((REPOSITORY / "releases.toml").read_text())["0.1.0"]
GH = """#!/bin/sh
# Notes what it is asked, and knows no release but that of RELEASED.
case "$*" in
  "release view "*) test "$3" = "$RELEASED" ;;
  *) echo "$*" >> asked ;;
esac
"""


@pytest.fixture
def repository(template: Path, tmp_path: Path) -> Path:
    """A clone with one release, in which updates are quickly tried, and with something to release."""
    clone = tmp_path / "reflex"
    git("clone", "--quiet", str(template), str(clone), at=tmp_path)
    git("branch", "--move", "--force", "main", at=clone)
    changelog = clone / "CHANGELOG.md"
    changelog.write_text(
        changelog.read_text().replace("## Unreleased\n", "## Unreleased\n\n- More.\n")
    )
    releases = clone / "releases.toml"
    releases.write_text(releases.read_text().partition(FIRST)[0] + f'{FIRST}"{COMMIT}"\n')
    (clone / "README.md").write_text(
        "Try `my-agent forecast` (unreleased). Write `(unreleased)`. [Why](#why-unreleased)\n"
    )
    (clone / "tests" / "test_updates.py").write_text(GREEN)
    (clone / "tests" / "test_docs.py").write_text(GREEN)
    (clone / "tests" / "conftest.py").unlink()
    (clone / ".gitignore").write_text("__pycache__/\n.pytest_cache/\n")
    commit(clone, "Something new")
    return clone


def release(repository: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run the program that releases."""
    command = [sys.executable, repository / "tools" / "release.py", *args]
    identity = {
        f"GIT_{who}_{what}": "ada@example.com"
        for who in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    }
    env = {**os.environ, **identity}
    return subprocess.run(command, cwd=repository, env=env, capture_output=True, text=True)


def test_a_release_names_its_commit_and_moves_its_notes(repository: Path) -> None:
    released = release(repository, "98.0.0")

    assert released.returncode == 0, released.stdout + released.stderr
    named = tomllib.loads((repository / "releases.toml").read_text())["98.0.0"]
    assert named == git("rev-parse", "HEAD~1", at=repository).strip()
    assert 'version = "98.0.0"' in git("show", f"{named}:pyproject.toml", at=repository)
    page = git("show", f"{named}:README.md", at=repository)
    assert page == (
        "Try `my-agent forecast` (since 98.0.0). Write `(unreleased)`. [Why](#why-since-9800)\n"
    )
    assert release(repository, "--notes", "98.0.0").stdout.startswith("- More.")
    assert release(repository, "--notes", "Unreleased").returncode == 1


@pytest.mark.parametrize(
    ("version", "sentence"),
    [
        ("", "'' is no version"),
        ("1.0", "'1.0' is no version"),
        ("0.1.0", "0.1.0 is released already"),
        ("0.1.0rc1", "0.1.0rc1 is older than 0.1.0"),
        ("0.0.9", "0.0.9 is older than 0.1.0"),
    ],
)
def test_what_is_no_new_version_is_refused(repository: Path, version: str, sentence: str) -> None:
    refused = release(repository, version)

    assert refused.returncode == 1
    assert sentence in refused.stderr


def test_changes_that_are_not_committed_are_refused(repository: Path) -> None:
    (repository / "README.md").write_text("Otherwise.\n")

    assert "uncommitted changes" in release(repository, "98.0.0").stderr


def test_a_branch_is_not_released(repository: Path) -> None:
    git("switch", "--quiet", "--create", "aside", at=repository)

    assert "You are on aside" in release(repository, "98.0.0").stderr


def test_a_release_without_notes_is_refused(repository: Path) -> None:
    (repository / "CHANGELOG.md").write_text("# Changelog\n\n## Unreleased\n\n## 0.1.0\n\n- All.\n")
    commit(repository, "Say nothing")

    assert "says nothing under Unreleased" in release(repository, "98.0.0").stderr


def test_what_projects_cannot_be_updated_to_is_no_release(repository: Path) -> None:
    (repository / "tests" / "test_updates.py").write_text(RED)
    commit(repository, "Break updates")
    before = git("rev-parse", "HEAD", at=repository)

    assert "cannot be updated to this" in release(repository, "98.0.0").stderr
    assert git("rev-parse", "HEAD", at=repository) == before


@pytest.mark.parametrize("version", tomllib.loads((REPOSITORY / "releases.toml").read_text()))
def test_every_release_has_notes(version: str) -> None:
    assert release(REPOSITORY, "--notes", version).stdout.startswith("### ")


def test_notes_that_are_missing_are_an_error(repository: Path) -> None:
    asked = release(repository, "--notes", "97.0.0")

    assert asked.returncode == 1
    assert asked.stderr == "release: CHANGELOG.md has no notes on 97.0.0.\n"


def publish(repository: Path, released: str = "") -> list[str]:
    """Run what the workflow does; return what it asked GitHub for."""
    workflow = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "release.yml").read_text())
    programs = repository / "programs"
    programs.mkdir()
    (programs / "gh").write_text(GH)
    (programs / "gh").chmod(0o755)
    path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "RELEASED": released}
    script = workflow["jobs"]["release"]["steps"][-1]["run"]
    subprocess.run(["bash", "-e", "-c", script], cwd=repository, env=env, check=True)
    asked = repository / "asked"
    return asked.read_text().splitlines() if asked.exists() else []


def test_the_workflow_tags_and_then_publishes(repository: Path) -> None:
    known = tomllib.loads((repository / "releases.toml").read_text())["0.1.0"]

    tagged, published = publish(repository)

    assert tagged.endswith(f"--raw-field ref=refs/tags/0.1.0 --raw-field sha={known}")
    assert "release create 0.1.0 --verify-tag" in published
    assert "--target" not in published


def test_the_workflow_publishes_what_was_tagged_only(repository: Path) -> None:
    git("tag", "0.1.0", at=repository)

    asked = publish(repository)

    assert [line.split(" ")[:2] for line in asked] == [["release", "create"]]


def test_the_workflow_leaves_alone_what_is_released(repository: Path) -> None:
    assert publish(repository, released="0.1.0") == []
