"""The language: prose uses the field's terms, and none of the words that the glossary replaces.

Prose is the text of pages, the docstrings, comments and string literals of Python, and every other text file without
its Jinja tags. Identifiers are not prose: text in backticks, names with underscores, strings of one word, and SQL.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest

from demo.render import REPOSITORY

ROOTS = (
    *("README.md", "CONTRIBUTING.md", "SECURITY.md", "AGENTS.md", "CHANGELOG.md", "copier.yml"),
    *("docs", ".github/ISSUE_TEMPLATE", ".github/PULL_REQUEST_TEMPLATE.md"),
    *("examples", "template", "variants"),
)
"""Files, and folders with all that is in them."""

REFUSED = {
    # the glossary's column "replaces"
    r"in (?:[\w']+ ){0,3}hands?": "in flight, claimed, leased",
    r"ow(?:ed|es?|ing to (?:it|them|nobody))": "pending, a delivery",
    r"orphan(?:s|ed)?": "an expired lease",
    r"f(?:a|e)ll(?:s|en|ing)? silent": "stop answering, let a lease expire",
    r"hand(?:s|ed|ing)?[ -]backs?": "release",
    r"pass(?:es|ed|ing)? (?:it |them )?on": "defer, forward",
    r"look(?:s|ed|ing)? again": "resume, check again",
    r"let(?:s|ting)? (?:it |them )?go": "release",
    r"bur(?:y|ies|ied|ying)": "dead-letter",
    r"shared flush(?:es)?": "group commit",
    r"lanes?": "a dedicated connection",
    r"away": "unavailable",
    r"passing (?:errors?|failures?|status(?:es)?)": "transient",
    r"late (?:acks?|nacks?|settlements?)": "stale",
    # name the thing
    r"whoever": "the noun: a client, a worker, an operator",
    r"that which": "the noun",
    r"what (?:is|are|was|were) to be \w+": "the noun",
    # things return, raise, log and report
    r"(?:tell|tells|told|hear|hears|heard|speak|speaks|spoke|knows?|knew) of": "report, record, mention, contain",
    r"(?:say|says|said) so": "report it",
    # negate the verb
    r"(?<!there )(?:is|are|was|were|it's) no (?!longer\b|more\b|less\b|one\b|\w+er\b)\w+": "is not",
    r"(?<!there )(?-i:(?:is|are) none)(?! of)": "is not",
}
"""Patterns of words, and what to write in their place. Ordinary words (room, rest, late, unread) are not refused."""

EXCEPTIONS = {
    (
        "variants/licenses/proprietary.txt",
        "pass it on",
    ): "the licence forbids giving copies to others",
    (
        "template/src/{{ package_name }}/agent/agents.py",
        "is no instruction",
    ): "a model reads it, and the injections of the red team are tried with these words",
}
"""A phrase that is right in one place: the file, the phrase as it stands there, and the reason."""

OLD_PASSAGES = [
    (
        "`infra/store/` of every rendered project: a log, and beside it a small table of what is still owed.",
        ["owed"],
    ),
    (
        "its leases run out after `EVENT_LEASE`; what it had in hand is taken by others. The number of a claim; "
        "whoever comes back late with an old one changes nothing.",
        ["in hand", "whoever"],
    ),
    (
        "A call to another service is told of with its whole URL. The service's role is no wall between rows, "
        "and old processes say so in the log.",
        ["told of", "is no wall", "say so"],
    ),
]
"""Prose of earlier pages, and the phrases that are refused in it."""

PATTERN = re.compile("|".join(rf"\b(?:{pattern})\b" for pattern in REFUSED), re.IGNORECASE)
TEXT = {".md", ".py", ".yml", ".yaml", ".toml", ".json", ".sh", ".txt", ".mako", ".example", ""}
PYTHON = re.compile(
    r'(?P<string>(?:[rbfuRBFU]{0,2})(?:"""(?:\\.|[^\\])*?"""|"(?:\\.|[^"\\\n])*"'
    r"|'''(?:\\.|[^\\])*?'''|'(?:\\.|[^'\\\n])*'))|(?P<comment>#[^\n]*)",
    re.DOTALL,
)
FENCE = re.compile(
    r"^ *(?P<fence>`{3,}|~{3,})(?P<language>[^\n`]*)\n(?P<text>.*?)^ *(?P=fence) *$",
    re.DOTALL | re.MULTILINE,
)
CODE = re.compile(r"`[^`\n]+`|\]\([^)\s]+\)|https?://\S+")
SQL = re.compile(r"\b(?:SELECT|INSERT INTO|UPDATE|DELETE FROM|FROM|JOIN|TABLE|INDEX)\s+\S")
WORD = re.compile(r"\W*[\w.:/-]*\W*")
JINJA = re.compile(r"\{%.*?%\}|\{\{.*?\}\}", re.DOTALL)
RELEASED = re.compile(r"^## \d", re.MULTILINE)


class Found(NamedTuple):
    """A refused phrase, and where it stands."""

    file: str
    line: int
    phrase: str


@dataclass
class Prose:
    """A text with its code blanked out, so that lines keep their numbers."""

    text: str

    def phrases(self) -> Iterator[tuple[int, str]]:
        """Yield each refused phrase with its line. A phrase may continue on the next line."""
        flat = re.sub(
            r"\s", " ", re.sub(r"(?<=\n)[ >#-]+", lambda gap: " " * len(gap[0]), self.text)
        )
        flat = re.sub(r" {2,}", lambda gap: " " + "\0" * (len(gap[0]) - 1), flat)
        kept = [index for index, char in enumerate(flat) if char != "\0"]
        for found in PATTERN.finditer(flat.replace("\0", "")):
            yield self.text.count("\n", 0, kept[found.start()]) + 1, found[0].lower()


def blank(found: re.Match[str]) -> str:
    """Return spaces in place of a match, with its line breaks."""
    return re.sub(r"[^\n]", " ", found[0])


def prose_of_literal(text: str) -> str:
    """Return a string or a comment of Python, without what is an identifier or SQL."""
    if text.startswith("#"):
        return text
    if SQL.search(text):
        return re.sub(r"^(?:[^-\n]|-(?!-))*", blank, text, flags=re.MULTILINE)
    return re.sub(r"[^\n]", " ", text) if WORD.fullmatch(text) else text


def prose_of_python(text: str) -> str:
    """Return docstrings, comments and string literals where they stand, and spaces for the rest."""
    kept, end = list[str](), 0
    for found in PYTHON.finditer(text):
        kept += [re.sub(r"[^\n]", " ", text[end : found.start()]), prose_of_literal(found[0])]
        end = found.end()
    return "".join(kept) + re.sub(r"[^\n]", " ", text[end:])


def prose_of_page(text: str) -> str:
    """Return a page with only the prose of its Python blocks, and without its other blocks."""

    def of_block(block: re.Match[str]) -> str:
        if block["language"].strip() == "python":
            return prose_of_python(block[0])
        return blank(block)

    return FENCE.sub(of_block, text)


def prose_of(name: str, text: str) -> Prose:
    """Return the prose of a file."""
    text = JINJA.sub(blank, text)
    kind = Path(name.removesuffix(".jinja")).suffix
    if name == "CHANGELOG.md" and (released := RELEASED.search(text)):
        text = text[: released.start()]
    if kind == ".md":
        text = prose_of_page(text)
    elif kind in (".py", ".mako"):
        text = prose_of_python(text)
    return Prose(CODE.sub(lambda code: re.sub(r"[^\n]", "_", code[0]), text))


def files() -> Iterator[Path]:
    """Yield all text files under the roots."""
    for root in ROOTS:
        path = REPOSITORY / root
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            if file.is_file() and Path(file.name.removesuffix(".jinja")).suffix in TEXT:
                yield file


@pytest.fixture(scope="module")
def found() -> list[Found]:
    """All refused phrases of this repository."""
    return [
        Found(name, line, phrase)
        for file in files()
        for name in [file.relative_to(REPOSITORY).as_posix()]
        for line, phrase in prose_of(name, file.read_text()).phrases()
    ]


def test_prose_has_no_refused_word(found: list[Found]) -> None:
    refused = [
        f"{file}:{line}: {phrase}"
        for file, line, phrase in found
        if (file, phrase) not in EXCEPTIONS
    ]

    assert not refused, "\n".join(["write the glossary's term:", *refused])


def test_every_exception_is_needed(found: list[Found]) -> None:
    assert EXCEPTIONS.keys() <= {(file, phrase) for file, _, phrase in found}


@pytest.mark.parametrize(("passage", "expected"), OLD_PASSAGES)
def test_an_old_passage_is_refused(passage: str, expected: list[str]) -> None:
    assert [phrase for _, phrase in prose_of("old.md", passage).phrases()] == expected
    docstring = prose_of("old.py", f'def old() -> None:\n    """{passage}"""\n')
    assert [phrase for _, phrase in docstring.phrases()] == expected


def test_identifiers_and_commands_are_not_prose() -> None:
    page = "Call `store.look_again()`:\n\n```bash\npass on\n```\n\n```python\naway = lane  # owed\n```\n"

    assert [*prose_of("page.md", page).phrases()] == [(8, "owed")]
    assert not [*prose_of("code.py", "hand_back(away, whoever, 'lane')\n").phrases()]


def test_of_sql_only_comments_are_prose() -> None:
    code = 'CLAIM = """\nSELECT seq\n  FROM lane  -- owed\n"""\n'

    assert [*prose_of("code.py", code).phrases()] == [(3, "owed")]


def test_a_phrase_may_continue_on_the_next_line() -> None:
    comment = "x = 1\n# the database knows\n# of it\n"

    assert [*prose_of("code.py", comment).phrases()] == [(2, "knows of")]
