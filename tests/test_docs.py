"""The documentation: it builds without a warning, and what it tells one to type works.

Every block of code is in a language that is known here, and either data or something to run. What is to be
run is run, or says why not: in a page of this repository by a comment before it, `<!-- test: ... -->`; for
the pages of a rendered project, which have no such comments, by a table below. `doc_runner.py` says what the words of both mean.
"""

import re
import subprocess
import sys
import textwrap
from collections.abc import Generator
from pathlib import Path

import pytest

from demo.render import REPOSITORY, render

from .conftest import COUNTS, RELEASES
from .doc_runner import RUN, Block, DocRunner

PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md")])
BLOCK = re.compile(
    r"(?:^ *<!-- test: (?P<how>.+?) -->\n)?"
    r"^ *(?P<fence>`{3,}|~{3,})(?P<language>[^\n`]*)\n(?P<text>.*?)^ *(?P=fence) *$",
    re.DOTALL | re.MULTILINE,
)
COMMENT = re.compile(r"<!-- test: ")
LINK = re.compile(r"\]\((?![a-z]+:|#)([^)#\s]+)")
WORKFLOW = re.compile(r"^\.\./\.\./actions/workflows/([^/]+)(/badge\.svg)?$")
"""A workflow's page on GitHub and its badge, relative to a page at the root: its repository may have any owner."""
CODE = re.compile(r"^ *(`{3,}|~{3,}).*?^ *\1|`[^`\n]+`", re.DOTALL | re.MULTILINE)

DATA = ("text", "ini", "sql", "yaml", "json", "diff", "jinja", "powershell")
FOLLOWED = [["tutorial.md", "updating.md"], ["questions.md"]]
"""Pages that are followed, each group by one runner in one folder."""

PROJECT_BLOCKS = [
    ("README.md", "my-agent dev", "background"),
    ("README.md", "my-agent tail", "watch"),
    ("README.md", "for n in", "shows agent.action"),
    ("README.md", "websockets", 'type {"content": "the payment failed"}'),
    ("README.md", "error.reported", "prints published"),
    ("README.md", "uv run pytest", "collect"),
    ("console.md", "replay", ""),
    ("console.md", "", "skip: the project's own tests/test_console_yours.py runs that page"),
    ("operations.md", "docker", "skip: it needs Docker, which `make containers` is for"),
    ("operations.md", "make secrets", "prints secrets/openai_api_key"),
    ("operations.md", "--types operator.action", ""),
    ("operations.md", "my-agent check", ""),
    ("operations.md", "why EVENT_ID", "dead letter"),
    ("operations.md", "dlq show", "dead letter"),
    ("operations.md", "prune", "prints Deleted"),
    ("operations.md", "erase --scope", "skip: the scope of the example has no events"),
    ("operations.md", "--types agent.dropped", ""),
    ("operations.md", "order.removed", "skip: it needs events of a type that was removed"),
    ("operations.md", "--publish-to", ""),
    ("prompt-injection.md", "test_red_team.py", "collect"),
    ("sources.md", "from ..core", "skip: the project's own tests/test_sources.py runs that page"),
    ("sources.md", "openssl", "skip: the project's own tests/test_sources.py signs and sends one"),
    (
        "cookbook.md",
        "pg_restore",
        "skip: it needs a server; the project's own tests/test_cookbook.py has one",
    ),
    ("cookbook.md", "pg_dump", ""),
    ("cookbook.md", "psql", ""),
    ("cookbook.md", "", "skip: the project's own tests/test_cookbook.py runs that page"),
    ("patterns.md", "", "skip: the project's own tests/test_patterns.py runs that page"),
    (
        "durable-decisions.md",
        "",
        "skip: the project's own tests/test_durable_agents.py runs that page",
    ),
]
"""For blocks of a project's pages, in order: the page, a part of the block, and what is done with it."""


def blocks_of(page: Path) -> list[Block]:
    """Return all code that a page shows."""
    return [
        Block(
            page.name, found["how"] or "", found["language"].strip(), textwrap.dedent(found["text"])
        )
        for found in BLOCK.finditer(page.read_text())
    ]


def blocks() -> list[Block]:
    """Return all code that the pages of this repository show."""
    return [block for page in PAGES for block in blocks_of(page)]


def pages_of(project: Path) -> list[Path]:
    """Return the pages of a rendered project, the first one first."""
    return [project / "README.md", project / "AGENTS.md", *sorted(project.glob("docs/*.md"))]


def blocks_of_project(project: Path) -> list[Block]:
    """Return all code that the pages of a rendered project show, and how each block is treated."""
    found = [block for page in pages_of(project) for block in blocks_of(page)]
    for block in found:
        if block.language in RUN:
            treatments = (
                how
                for page, part, how in PROJECT_BLOCKS
                if page == block.page and part in block.text
            )
            block.how = next(treatments, "unknown")
    return found


@pytest.fixture(scope="module")
def project(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project of all defaults, in the folder that its pages speak of."""
    path = tmp_path_factory.mktemp("home") / "my-agent"
    render(path, template)
    return path


def test_every_block_is_of_a_known_language(project: Path) -> None:
    strange = [
        f"{block.page}: {block.language or 'none'}: {block.text[:60]!r}"
        for block in [*blocks(), *blocks_of_project(project)]
        if block.language not in (*RUN, *DATA)
    ]

    assert not strange, f"add their languages to those that are run, or to data: {strange}"


def test_every_block_of_code_is_run_or_says_why_not(project: Path) -> None:
    followed = [page for group in FOLLOWED for page in group]
    unruly = [
        f"{block.page}: {block.text[:60]!r}"
        for block in blocks()
        if block.is_run and not block.is_left_out and block.page not in followed
    ]
    untreated = [
        f"{block.page}: {block.text[:60]!r}"
        for block in blocks_of_project(project)
        if block.how == "unknown"
    ]

    assert not unruly, "follow these pages, or say why not"
    assert not untreated, "say in PROJECT_BLOCKS what is done with them"


def test_every_comment_about_a_block_stands_before_one() -> None:
    for page in PAGES:
        meant = len(COMMENT.findall(page.read_text()))
        assert meant == sum(bool(block.how) for block in blocks_of(page)), page.name


def test_what_stands_in_two_pages_is_the_same() -> None:
    by_page = {page.name: blocks_of(page) for page in PAGES}
    for block in blocks():
        how, _, page = block.how.partition("as in ")
        if page and not how:
            there = set[str]().union(*(each.commands for each in by_page[page]))
            assert block.commands <= there, f"{block.page} differs from {page}"


def test_every_link_within_the_repository_leads_somewhere(project: Path) -> None:
    dead = [
        f"{page.name}: {link}"
        for page in [*PAGES, *pages_of(project)]
        for link in LINK.findall(CODE.sub("", page.read_text()))
        if not (page.parent / WORKFLOW.sub(r".github/workflows/\1", link)).exists()
    ]

    assert not dead


def test_the_site_builds_without_a_warning_and_has_the_pages_of_every_release(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-m", "tools.site", "--target", tmp_path]
    built = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)

    newest = [*RELEASES][-1]
    assert built.returncode == 0, built.stderr
    assert f"url={newest}/index.html" in (tmp_path / "index.html").read_text()
    for version in (*RELEASES, "main"):
        assert f"Reflex {version}</title>" in (tmp_path / version / "tutorial.html").read_text()
    unreleased = (tmp_path / "main" / "operations.html").read_text()
    assert f"<code>copier copy</code> renders {newest}" in unreleased
    assert "EVENT_MAX_ATTEMPTS" in unreleased, "a rendered page"


def test_the_demo_shows_an_agent_at_work() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "demo"], cwd=REPOSITORY, capture_output=True, text=True
    )

    assert shown.returncode == 0, shown.stdout + shown.stderr
    steps = [line.split()[2] for line in shown.stdout.splitlines() if re.match(r" +\d+\.\d ", line)]
    picture = (REPOSITORY / "docs" / "demo.svg").read_text()
    assert {"event", "decide", "action", "ALERT", "REPLY"} == set(steps)
    assert all(step in picture for step in steps), "make picture draws a new one"


@pytest.mark.parametrize("pages", FOLLOWED, ids=["-".join(group) for group in FOLLOWED])
def test_a_page_does_what_it_says(
    pages: list[str], runner: DocRunner, request: pytest.FixtureRequest
) -> None:
    for number, page in enumerate(pages):
        if number:
            runner.stop()
            runner.release_another_version()
        ran = runner.follow(block for block in blocks() if block.page == page)
        assert ran, f"{page} has nothing to follow"
        count(ran, request.config)


def test_the_pages_of_a_project_do_what_they_say(
    project: Path, runner: DocRunner, request: pytest.FixtureRequest
) -> None:
    runner.place = project
    runner.env["PATH"] = f"{project / '.venv' / 'bin'}:{runner.env['PATH']}"

    ran = runner.follow(blocks_of_project(project))

    count(ran, request.config)


def count(ran: int, config: pytest.Config) -> None:
    """Add to the number of blocks that were run."""
    counts = config.stash[COUNTS]
    counts["blocks of documentation"] = counts.get("blocks of documentation", 0) + ran


@pytest.fixture
def runner(released: Path, tmp_path: Path) -> Generator[DocRunner]:
    """Somebody who follows pages, in an empty folder; Copier renders the next release for them."""
    somebody = DocRunner(released, tmp_path)
    yield somebody
    somebody.leave()
