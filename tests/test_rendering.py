"""What is rendered: the promised files, nothing left of the template, and no need to trust it."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from pytest_copie.plugin import Result

from demo.render import REPOSITORY, render

from .combinations import unrendered
from .conftest import Copy

TREE = """
docker/Dockerfile docker/Dockerfile.dev docker/docker-compose.yml docker-compose.yml
src/my_agent/__init__.py src/my_agent/py.typed src/my_agent/config.py src/my_agent/cli/__init__.py
src/my_agent/infra/__init__.py src/my_agent/infra/database.py src/my_agent/infra/store/__init__.py
src/my_agent/infra/locks.py src/my_agent/infra/observability.py src/my_agent/infra/process/embedded.py
src/my_agent/infra/timers.py src/my_agent/core/__init__.py src/my_agent/core/events.py
src/my_agent/core/context.py src/my_agent/core/deps.py src/my_agent/core/types.py
src/my_agent/agent/__init__.py src/my_agent/agent/filters.py src/my_agent/agent/triggers.py
src/my_agent/agent/agents.py src/my_agent/agent/loop.py src/my_agent/api/__init__.py
src/my_agent/api/app.py src/my_agent/api/deps.py src/my_agent/api/routes/__init__.py
src/my_agent/api/routes/events.py src/my_agent/api/routes/health.py src/my_agent/api/routes/ws.py
src/my_agent/api/routes/stream.py src/my_agent/migrations/env.py tests/conftest.py
tests/test_store.py tests/test_context.py tests/test_agent.py tests/test_api.py scripts/migrate.py
scripts/replay.py scripts/dlq.py .github/workflows/ci.yml .github/workflows/deploy.yml .env.example
pyproject.toml Makefile README.md AGENTS.md LICENSE .gitignore .gitattributes .dockerignore .python-version
.copier-answers.yml compose.prod.yaml docs/architecture.md docs/patterns.md docs/cookbook.md docs/operations.md docs/prompt-injection.md
.github/renovate.json .github/audit.sh
""".split()


def files_of(project: Path) -> dict[str, str]:
    """The text of every file, by its path."""
    return {
        str(path.relative_to(project)): path.read_text()
        for path in sorted(project.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def defaults(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project of all defaults, by the plain command that a user types: it trusts nothing."""
    path = tmp_path_factory.mktemp("defaults") / "project"
    render(path, template)
    return path


@pytest.fixture
def project(defaults: Path, tmp_path: Path) -> Path:
    """A copy of that project, which a test may change."""
    return shutil.copytree(defaults, tmp_path / "project")


def rendered(result: Result) -> Path:
    """Where a project was rendered."""
    assert result.exception is None
    assert result.project_dir is not None
    return result.project_dir


def test_the_promised_files_are_there(project: Path) -> None:
    missing = [name for name in TREE if not (project / name).is_file()]

    assert not missing


def test_nothing_of_the_template_is_left(project: Path) -> None:
    for name, text in files_of(project).items():
        left = unrendered(name, text)
        assert not left, f"{name} was not rendered: {left[0]}"


def test_the_map_for_owners_names_files_that_exist(project: Path) -> None:
    page = (project / "docs" / "architecture.md").read_text()
    package = project / "src" / "my_agent"
    made_later = {".env", ".env.production", "secrets/"}

    named = set(re.findall(r"`([\w./-]+(?:/|\.py|\.md|\.toml|\.example))`", page)) - made_later
    missing = [name for name in named if not any((at / name).exists() for at in (project, package))]

    assert len(named) > 40
    assert not missing


def test_the_map_for_owners_has_twelve_files_to_read_first(project: Path) -> None:
    page = (project / "docs" / "architecture.md").read_text()
    section = page.partition("## Read these twelve files first\n")[2].partition("\n## ")[0]
    named = re.findall(r"^\| `([\w./]+)` \|", section, re.MULTILINE)
    lines = sum(
        len((project / "src" / "my_agent" / name).read_text().splitlines()) for name in named
    )

    assert len(named) == 12
    assert 1_400 < lines < 2_000, f"the page promises about 1,700 lines, and they have {lines}"


def make_secrets(project: Path, *programs: Path) -> subprocess.CompletedProcess[str]:
    """Run `make secrets`, with these programs before those of the system."""
    env = {**os.environ, "PATH": ":".join([*map(str, programs), os.environ["PATH"]])}
    return subprocess.run(["make", "secrets"], cwd=project, env=env, capture_output=True, text=True)


def test_secrets_are_made_once_for_their_owner_alone(project: Path) -> None:
    (project / "secrets").mkdir()
    (project / "secrets" / "api_keys").touch()  # a disk was full, say
    first = make_secrets(project)
    before = files_of(project)

    again = make_secrets(project)

    assert (first.returncode, again.returncode) == (0, 0), first.stderr + again.stderr
    assert files_of(project) == before
    password = before["secrets/postgres_password"].strip()
    assert re.fullmatch("[0-9a-f]{48}", password)
    assert re.fullmatch("[0-9a-f]{48}", before["secrets/api_keys"].strip())
    assert f":{password}@db:5432/" in before["secrets/database_migrate_url"]
    assert password not in before["secrets/database_url"]
    service = before["secrets/service_password"].strip()
    assert f"_service:{service}@db:5432/" in before["secrets/database_url"]
    assert before[".env.production"] == "DEFAULT_MODEL=openai:gpt-5-mini\nLOG_RETENTION=7776000\n"
    assert (project / "secrets").stat().st_mode & 0o777 == 0o700


def test_a_database_with_one_role_keeps_it_until_the_owner_s_url_is_moved(project: Path) -> None:
    url, owner = project / "secrets" / "database_url", project / "secrets" / "database_migrate_url"
    url.parent.mkdir()
    url.write_text("postgresql://app:of-before@somewhere/app\n")

    make_secrets(project)
    assert (url.read_text(), owner.read_text()) == (
        "postgresql://app:of-before@somewhere/app\n",
        "",
    )

    url.rename(owner)
    make_secrets(project)
    assert "_service:" in url.read_text()
    assert ":of-before@" in owner.read_text()


def test_secrets_that_cannot_be_made_are_not_there(project: Path, tmp_path: Path) -> None:
    broken = tmp_path / "programs" / "od"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\n")
    broken.chmod(0o755)

    refused = make_secrets(project, broken.parent)

    assert refused.returncode != 0
    assert "secrets: /dev/urandom, head, od, tr or grep is missing" in refused.stderr
    assert not list((project / "secrets").iterdir())


def test_the_template_needs_no_trust() -> None:
    text = (REPOSITORY / "copier.yml").read_text()

    assert not re.findall(r"^_(tasks|migrations|jinja_extensions):", text, re.MULTILINE)


IN_A_FUNCTION = {
    "development_database.py.jinja": "one statement more starts the server of the locks"
}
"""Files that branch within a function, with the reason."""


def test_python_templates_branch_around_declarations_only() -> None:
    for path in (REPOSITORY / "template").rglob("*.py.jinja"):
        text = path.read_text()
        assert not re.findall(r"\{%-? *for\b", text), f"{path.name} has a loop"
        for found in re.finditer(r"(.*)\{%-? *if\b[^%]*%\}\n*(.*)", text):
            declares = re.match(r" {0,4}(#|[a-z_]+: |\"[a-z_]+\": )", found[2])
            assert not found[1].strip() or path.name in IN_A_FUNCTION, "a branch has its own line"
            assert declares or path.name in IN_A_FUNCTION, (
                f"{path.name} branches at {found[2]!r}; let the answer choose a whole file"
            )


def test_without_github_there_are_no_workflows(copy: Copy) -> None:
    project = rendered(copy(ci="none"))

    assert not (project / ".github").exists()


@pytest.mark.parametrize("locks", ["memory", "postgres"])
def test_only_who_locks_with_redis_hears_of_it(copy: Copy, locks: str) -> None:
    project = rendered(copy(locks=locks))

    for name, text in files_of(project).items():
        if name != ".copier-answers.yml":
            assert not re.search("redis|valkey", text, re.IGNORECASE), name


@pytest.mark.parametrize(
    ("project_name", "package_name"),
    [("Ab", "ab"), ("A" * 39 + "z", "a" * 30), ("Order Desk", "order_desk")],
)
def test_rendering_is_a_fixed_point_of_the_formatter(
    copy: Copy, project_name: str, package_name: str
) -> None:
    long_type = f"{'a' * 36}: {{{'f' * 40}: 'list[datetime]?', {'g' * 40}: datetime}}"
    project = rendered(
        copy(project_name=project_name, package_name=package_name, event_types=long_type)
    )

    for command in (["format", "--check", "--diff"], ["check"]):
        checked = subprocess.run(
            ["ruff", *command, "."], cwd=project, capture_output=True, text=True
        )
        assert checked.returncode == 0, checked.stdout


def test_an_update_leaves_the_agent_alone_and_brings_the_rest(
    template: Path, project: Path
) -> None:
    def git(*args: str, at: Path = project) -> None:
        identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.com"]
        subprocess.run(["git", *identity, *args], cwd=at, check=True, capture_output=True)

    agent = project / "src" / "my_agent" / "agent"
    (agent / "triggers.py").write_text('"""Mine."""\n')
    (agent / "filters.py").unlink()
    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--message", "Mine")
    (template / "template" / "NEWS.md").write_text("New.\n")
    git("add", "--all", at=template)
    git("commit", "--quiet", "--message", "Release", at=template)

    update = ["copier", "update", "--defaults", "--quiet", "--vcs-ref", "HEAD"]
    updated = subprocess.run(update, cwd=project, capture_output=True, text=True)

    assert updated.returncode == 0, updated.stderr
    assert (project / "NEWS.md").read_text() == "New.\n"
    assert (agent / "triggers.py").read_text() == '"""Mine."""\n'
    assert not (agent / "filters.py").exists()
    (template / "template" / "NEWS.md").unlink()
    git("commit", "--quiet", "--all", "--message", "As before", at=template)
