"""Pages of main name nothing that the newest release lacks, unless they mark it as unreleased.

`copier copy` renders the newest release, and these pages are what its users read first. A name is what a page
has in code: a setting, a file, a class, an option, a command. It is known if the template's files have it as a word.
"""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.render import REPOSITORY, git
from tools.release import MARK

from .conftest import RELEASES

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
RENDERED = ("copier.yml", "template", "variants")
"""Where the files are that make projects."""

WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:[.-][A-Za-z0-9_]+)*")
NAME = re.compile(r"[_.]|[a-z][A-Z]")
"""What tells a name from a word that any text may have: `API_KEYS`, `hub.py`, `EventStore`."""
COMMAND = re.compile(r'@\w+\.command\((?:\s*"([\w-]+)")?.*?\bdef (\w+)\(', re.DOTALL)
RUN = re.compile(r"\bmy-agent ([a-z][\w-]*)(?: ([a-z][\w-]*))?")
CODE = re.compile(r"^```.*?^```|`[^`]+`", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ .*$", re.MULTILINE)
PART = re.compile(r"\n\s*\n|\n(?=[-*|]|\d+\. )")
"""Between paragraphs, items of lists and rows of tables."""

EXAMPLES = {"my_agent", "github.com"}


class Names:
    """The words of what makes projects, and their commands."""

    def __init__(self, texts: dict[str, str]) -> None:
        paths = {part for path in texts for part in path.removesuffix(".jinja").split("/")}
        self.words = paths.union(*(WORD.findall(text) for text in texts.values()))
        self.commands = {
            given or function.replace("_", "-")
            for path, text in texts.items()
            if "/cli" in path
            for given, function in COMMAND.findall(text)
        }

    def of(self, code: str) -> set[str]:
        """Return which of these names a piece of code has."""
        commands = {f"my-agent {word}" for word in self._run(code) if word in self.commands}
        words = {word for word in WORD.findall(code) if NAME.search(word)} - EXAMPLES
        return commands | (self.words & words)

    def has(self, name: str) -> bool:
        """Tell whether a name is among these."""
        command = name.removeprefix("my-agent ")
        return name in self.words if command == name else command in self.commands

    @staticmethod
    def _run(code: str) -> Iterator[str]:
        for found in RUN.finditer(code):
            yield from filter(None, found.groups())


def lacking(page: str, now: Names, released: Names) -> set[str]:
    """Return what a page names without a mark and only unreleased projects have.

    A mark holds for its paragraph, item or row, and one in a heading for all that follows up to the next.
    """
    missing: set[str] = set()
    headings = ["", *HEADING.findall(page)]
    for heading, section in zip(headings, HEADING.split(page), strict=True):
        if MARK in heading:
            continue
        blocks = CODE.sub(lambda found: found[0].replace("\n\n", "\n"), section)
        for part in PART.split(blocks):
            if MARK not in part:
                names = set[str]().union(*(now.of(code) for code in CODE.findall(part)))
                missing |= {name for name in names if not released.has(name)}
    return missing


@pytest.fixture(scope="module")
def now() -> Names:
    """The names of projects that this repository renders."""
    files = [
        path
        for root in RENDERED
        for path in ([REPOSITORY / root], [*(REPOSITORY / root).rglob("*")])[root != "copier.yml"]
        if path.is_file() and path.suffix != ".pyc"
    ]
    return Names({str(path.relative_to(REPOSITORY)): path.read_text() for path in files})


@pytest.fixture(scope="module")
def newest() -> Names:
    """The names of projects that the newest release renders."""
    commit = [*RELEASES.values()][-1]
    listed = git("ls-tree", "-r", "-z", "--name-only", commit, *RENDERED, at=REPOSITORY)
    paths = [path for path in listed.split("\0") if path]
    asked = "".join(f"{commit}:{path}\n" for path in paths).encode()
    batch = ["git", "cat-file", "--batch"]
    ran = subprocess.run(batch, cwd=REPOSITORY, input=asked, capture_output=True, check=True)
    return Names(dict(zip(paths, contents(ran.stdout), strict=True)))


def contents(batch: bytes) -> Iterator[str]:
    """Yield the texts of what `git cat-file --batch` answers."""
    while batch:
        header, _, rest = batch.partition(b"\n")
        size = int(header.split()[-1])
        yield rest[:size].decode()
        batch = rest[size + 1 :]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_nothing_that_the_newest_release_lacks(
    page: Path, now: Names, newest: Names
) -> None:
    missing = lacking(page.read_text(), now, newest)

    assert not missing, (
        f"{page.name} names {sorted(missing)}, which {[*RELEASES][-1]} lacks: write {MARK} into the"
        " paragraph, list item or row, or into the heading of a section"
    )


OLD = Names({"template/a/cli.py": "@app.command()\ndef serve():\n    erase = 1"})
NEW = Names(
    {
        "template/a/cli.py": '@app.command("serve")\ndef serve():\n@app.command()\ndef erase():',
        "template/a/erase.py.jinja": "API_LIMIT = 5",
    }
)


NOTHING: set[str] = set()


@pytest.mark.parametrize(
    ("page", "missing"),
    [
        ("Run `my-agent erase ada`.", {"my-agent erase"}),
        ("```bash\nuv run my-agent erase\n```", {"my-agent erase"}),
        ("Run `my-agent serve` and erase it.", NOTHING),
        ("See `infra/erase.py`.", {"erase.py"}),
        ("| `API_LIMIT` | (unreleased) |\n| `API_LIMIT` | 5 |", {"API_LIMIT"}),
        ("Set `API_LIMIT` (unreleased).\n\nRun `my-agent serve`.", NOTHING),
        ("- `API_LIMIT` (unreleased)\n- `my-agent erase`", {"my-agent erase"}),
        ("# Limits (unreleased)\n\n`API_LIMIT`\n\n# Else\n\n`my-agent erase`", {"my-agent erase"}),
    ],
)
def test_what_a_release_lacks_is_found_where_it_is_not_marked(page: str, missing: set[str]) -> None:
    assert lacking(page, NEW, OLD) == missing
