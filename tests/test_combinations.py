"""Every combination of answers: it renders, is well-formed, typed, and has nothing that it did not ask for.

A file that several projects share is looked at once, and so is a module whose imports are the same.
"""

import json
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import pytest

from demo.render import BUILD, REPOSITORY

from .combinations import (
    BEHAVIOUR,
    CODE,
    VALUES,
    Answers,
    Renderer,
    Trees,
    behaviours,
    code_in,
    unrendered,
)
from .import_closure import Closures, shape

HOME = BUILD / "trees"
NOT_IN_THE_CODE = ("license", "ci", "python_version")
"""Answers that no code depends on; a test holds them to that."""

PATIENTLY = ("nice", "-n", "15") if shutil.which("nice") else ()
"""Before what takes minutes: tests of projects that run beside it wait for processes of theirs."""

LONGEST_PATH = 200  # characters: Windows allows 260, and the project lies somewhere
RESERVED = re.compile(r'[<>:"|?*\\\x00-\x1f]|[ .]$')  # in a name, on Windows
RESERVED_NAMES = re.compile(r"^(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)

ABOUT_THE_TEMPLATE = re.compile(
    r"\b(?:the|this|our) templates?\b|\btemplate's\b|\bjinja\b|\bcookiecutter\b", re.IGNORECASE
)
"""Words that an owner has no use for: a rendered project is theirs. A *message template* is something else."""

CONSOLE = "console"
"""What the names of files contain that are about the console, which has templates of its own."""

UNCHOSEN: dict[tuple[str, str], str] = {
    ("locks", "redis"): r"\bredis\b|valkey",
    ("locks", "postgres"): r"try_advisory_lock\(\$1::",  # migrations lock, too
    ("loop", "batch"): r"agent_batch_",
    ("ci", "github"): r"github actions|\.github/|renovate",
    ("license", "MIT"): r"MIT License|\bMIT\b",
    ("license", "Apache-2.0"): r"Apache",
    ("license", "BSD-3-Clause"): r"(?<!0)BSD",  # 0BSD is another, of files in the console
    ("event_types", VALUES["event_types"][0]): r"error\.reported|ErrorReported",
    ("event_types", VALUES["event_types"][2]): r"job\.done|JobDone",
    ("event_types", VALUES["event_types"][3]): r"OrderPlacedEvent",
}
"""Words that a project does not have unless it was answered so."""


@pytest.fixture(scope="module")
def written(trees: Trees, renderer: Renderer) -> list[Path]:
    """Every distinct file, in as much of a project as its formatting depends on."""
    home = HOME / "files"
    shutil.rmtree(home, ignore_errors=True)
    made: list[Path] = []
    for number, tree in enumerate(trees.having_each_file()):
        made.append(home / f"{number:03}")
        renderer.write(tree, made[-1])
    return made


def test_every_combination_renders_and_nothing_of_the_template_is_left(trees: Trees) -> None:
    for name, digest in trees.files():
        text = trees.texts[digest].decode()
        left = unrendered(name, text)
        assert not left, f"{name} was not rendered: {left[0]}"
        assert "\r" not in text, f"{name} has line ends that are not LF"


def test_only_a_project_s_section_on_updates_is_about_the_template(trees: Trees) -> None:
    for name, digest in trees.files():
        text = trees.texts[digest].decode()
        if name == "README.md":
            before, updates, after = text.partition("\n## Updates\n")
            assert updates, "README.md has no section on updates"
            text = before + after.partition("\n## ")[2]
        found = None if CONSOLE in name else ABOUT_THE_TEMPLATE.search(text)
        assert not found, f"{name} is about {found[0]!r}: write it for the owner of a project"


def test_answers_that_no_code_depends_on_change_no_code(trees: Trees) -> None:
    code: dict[frozenset[tuple[str, str]], set[frozenset[tuple[str, str]]]] = defaultdict(set)
    for answers, tree in trees.by_answers:
        rest = frozenset(item for item in answers.items() if item[0] not in NOT_IN_THE_CODE)
        code[rest].add(frozenset(item for item in tree.items() if item[0].startswith(CODE)))

    assert {len(found) for found in code.values()} == {1}


def test_a_name_changes_no_code_but_the_name(trees: Trees) -> None:
    codes: dict[frozenset[tuple[str, str]], set[frozenset[tuple[str, str]]]] = defaultdict(set)
    shapes: dict[tuple[str, str], str] = {}
    for answers, tree in trees.by_answers:
        code = code_in(tree)
        package = next(name.split("/")[1] for name in code if name.startswith("src/"))
        for digest in code.values():
            if (digest, package) not in shapes:
                shapes[digest, package] = shape(
                    trees.texts[digest], package, answers["project_name"]
                )
        alike = frozenset(
            (name.replace(f"src/{package}/", "src/"), shapes[digest, package])
            for name, digest in code.items()
        )
        codes[frozenset(answers.items() - {("project_name", answers["project_name"])})].add(alike)

    assert {len(alike) for alike in codes.values()} == {1}


def test_every_distinct_file_of_python_compiles(trees: Trees) -> None:
    for name, digest in trees.files():
        if name.endswith(".py"):
            compile(trees.texts[digest], name, "exec")


def test_every_distinct_file_is_formatted_and_linted(written: list[Path]) -> None:
    for command in (["format", "--check", "--diff"], ["check"]):
        checked = subprocess.run(
            ["ruff", *command, "--no-cache", "."],
            cwd=HOME / "files",
            capture_output=True,
            text=True,
        )
        assert checked.returncode == 0, checked.stdout[-5000:]


@pytest.mark.parametrize(
    ("question", "value"),
    UNCHOSEN,
    ids=[f"{question}-{n}" for n, (question, _) in enumerate(UNCHOSEN)],
)
def test_only_who_answered_so_hears_of_it(trees: Trees, question: str, value: str) -> None:
    word = re.compile(UNCHOSEN[question, value], re.IGNORECASE)
    innocent = {
        (name, digest)
        for answers, tree in trees.by_answers
        if answers[question] != value
        for name, digest in tree.items()
    }
    guilty = {name for name, digest in innocent if word.search(trees.texts[digest].decode())}

    assert not guilty, f"they speak of {value} although nobody asked for it"
    assert any(
        word.search(trees.texts[digest].decode())
        for answers, tree in trees.by_answers
        if answers[question] == value
        for digest in tree.values()
    ), "the word says nothing"


def test_every_setting_is_used_by_the_code(trees: Trees) -> None:
    words: dict[str, set[str]] = {}
    for name, (answers, code) in trees.of_code().items():
        if answers["event_types"] != VALUES["event_types"][0]:
            continue  # no setting has to do with those
        package = next(path for path in code if path.endswith("/config.py"))
        fields = re.findall(r"^    (\w+): .+=", trees.texts[code[package]].decode(), re.MULTILINE)
        service = {
            digest for path, digest in code.items() if path.startswith("src/") and path != package
        }
        for digest in service - words.keys():
            words[digest] = {*re.findall(r"\w+", trees.texts[digest].decode())}
        used = set[str]().union(*(words[digest] for digest in service))
        used.update(re.findall(r"\bself\.(\w+)", trees.texts[code[package]].decode()))
        unused = [each for each in fields if each not in used]
        assert not unused, f"{name} has settings that nothing reads: {unused}"


def test_every_tree_can_be_checked_out_on_windows_and_macos(trees: Trees) -> None:
    template = [path.relative_to(REPOSITORY) for path in sorted(REPOSITORY.glob("template/**/*"))]
    variants = [path.relative_to(REPOSITORY) for path in sorted(REPOSITORY.glob("variants/**/*"))]
    rendered = {name for _, tree in trees.by_answers for name in tree}
    for path in {*template, *variants, *map(PurePosixPath, rendered)}:
        assert len(str(path)) < LONGEST_PATH, f"{path} is too long"
        for part in path.parts:
            assert not RESERVED_NAMES.search(part), f"{path} has a name that Windows reserves"
            assert not RESERVED.search(part), f"{path} has a character that Windows refuses"
    for names in [*(tree.keys() for _, tree in trees.by_answers), map(str, template)]:
        folded = [name.casefold() for name in names]
        assert len(folded) == len(set(folded)), "two paths differ in case alone"
    links = [path for path in [*template, *variants] if (REPOSITORY / path).is_symlink()]
    assert not links


@pytest.fixture(scope="session")
def code(trees: Trees, renderer: Renderer) -> dict[str, Path]:
    """A folder for each distinct code, by what makes it so."""
    home = HOME / "code"
    shutil.rmtree(home, ignore_errors=True)
    found: dict[str, Path] = {}
    for number, (name, (_, tree)) in enumerate(trees.of_code().items()):
        found[name] = home / f"{number:03}"
        renderer.write(tree, found[name])
    return found


@pytest.fixture(scope="session")
def typed(
    trees: Trees, code: dict[str, Path], environment: Path
) -> Generator[dict[bool, "Future[subprocess.CompletedProcess[str] | None]"]]:
    """The checks of types without and with Redis, which run from now on when all others leave them a processor."""
    pool = ThreadPoolExecutor(1)
    yield {
        redis: pool.submit(check_types, trees, code, environment, redis) for redis in (False, True)
    }
    pool.shutdown(cancel_futures=True)


@pytest.mark.usefixtures("typed")  # they begin here
def test_every_distinct_code_can_be_imported(
    trees: Trees, code: dict[str, Path], environment: Path
) -> None:
    """Those of other triggers by their own tests: `test_agent.py` runs with every trigger."""
    folders = [
        code[name]
        for name, (answers, _) in trees.of_code().items()
        if answers["trigger"] == VALUES["trigger"][0]
    ]
    if not folders:
        pytest.skip("--changed: no code has changed")
    command = [environment / "bin" / "python", REPOSITORY / "tests" / "injected" / "import_all.py"]
    imported = subprocess.run(
        command, input="\n".join(map(str, folders)), capture_output=True, text=True
    )

    assert imported.returncode == 0, imported.stdout[-5000:] + imported.stderr[-5000:]
    assert imported.stdout.splitlines()[-1] == f"{len(folders)} imported"


OF_EACH_TRIGGER = {"tests/test_agent.py", "tests/conftest.py"}
"""Modules of tests that an owner's trigger may change."""


@pytest.mark.parametrize("redis", [False, True], ids=["others", "redis"])
def test_the_types_of_every_distinct_code_hold(
    typed: dict[bool, "Future[subprocess.CompletedProcess[str] | None]"], redis: bool
) -> None:
    checked = typed[redis].result()
    if checked is None:
        pytest.skip("--changed: no types have changed")

    assert checked.returncode == 0, checked.stdout[-5000:]


def check_types(
    trees: Trees, code: dict[str, Path], environment: Path, redis: bool
) -> subprocess.CompletedProcess[str] | None:
    """Check types strictly, or return None if none have changed; the client of Redis leaves some of its own open."""
    known = types_in(trees.before) if trees.before else set[tuple[str, str]]()
    include: list[str] = []
    for name, (answers, tree) in trees.of_code().items():
        if (answers["locks"] == "redis") is redis:
            new = types_of(answers, tree, trees.texts) - known
            known |= new
            include += [f"{code[name].name}/{path}" for path, _ in sorted(new)]
    roots = {path.partition("/")[0] for path in include}
    config = {
        "typeCheckingMode": "strict",
        "reportMissingTypeStubs": not redis,
        "reportUnknownMemberType": not redis,
        "venvPath": str(environment.parent),
        "venv": environment.name,
        "include": include,
        "executionEnvironments": [
            {"root": root, "extraPaths": [f"{root}/src"], "pythonVersion": "3.12"}
            for root in sorted(roots)
        ],
    }
    if not include:
        return None
    file = HOME / "code" / f"pyrightconfig-{redis}.json"
    file.write_text(json.dumps(config, indent=2))
    return subprocess.run(
        [*PATIENTLY, "pyright", "--threads", "2", "--project", file], capture_output=True, text=True
    )


def types_of(
    answers: Answers, code: dict[str, str], texts: dict[str, bytes]
) -> set[tuple[str, str]]:
    """Return the modules of a project, each with a digest of what its types depend on.

    Modules of tests, most of which depend on all code, are checked in the projects that are tested; those that
    no trigger changes, in the projects of one trigger.
    """
    closures = Closures(code, texts)
    tested = what_code_is_of(answers) in {what_code_is_of(behaviour) for behaviour in behaviours()}
    usual = answers["trigger"] == VALUES["trigger"][0]
    return {
        (path, closures.types_of(path))
        for path in code
        if not path.startswith("tests/") or (tested and (usual or path in OF_EACH_TRIGGER))
    }


def what_code_is_of(answers: Answers) -> tuple[str, ...]:
    """Return the answers that code depends on, but for names."""
    return tuple(answers[name] for name in (*BEHAVIOUR, "event_types"))


def types_in(trees: Trees) -> set[tuple[str, str]]:
    """Return the same of all projects."""
    return set[tuple[str, str]]().union(
        *(types_of(answers, tree, trees.texts) for answers, tree in trees.of_code().values())
    )
