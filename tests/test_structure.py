"""The shape of the rendered code: modules of one subject, short functions, and one decision in all loops."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from demo.render import REPOSITORY

from .combinations import BEHAVIOUR, VALUES, Renderer

MAX_MODULE, MAX_FUNCTION = 250, 60  # lines
LOOPS = REPOSITORY / "variants" / "loops"

LONG: dict[str, str] = {
    "config.py": "it is the one home of all settings, each with its unit and meaning",
    "core/events.py": "it is the vocabulary: every event type of the service stands on one page",
    "infra/database.py": "it opens every kind of connection, and agents import its names from here",
    "infra/model/guard.py": "breaker, budget and usage wrap one request, and their order matters",
    "infra/process/embedded.py": "starting a server, sharing it between processes and ending it is one protocol",
    "infra/store/codec.py": "encoding reads back what it wrote, so both directions belong together",
    "infra/store/queue.py": "it is one subscriber's side of the store, and shares the tokens in flight",
    "infra/store/schema.py": "it has every table of the store, which owners read on one page",
    "infra/store/store.py": "it is the face that agents use: signatures and their docstrings, each body a line",
    "infra/telemetry/requests.py": "it is one middleware: the span, the log line and the metric of a request",
    "migrations/indexes.py": "building an index concurrently is one procedure, from its locks to its repair",
}
"""Modules of the package that may be longer, with the reason."""

LONG_FUNCTIONS: dict[str, str] = {}
"""Functions that may be longer, with the reason."""

OTHER_DECISIONS = {
    "batch": "it decides once on many events, which it acknowledges or holds together"
}
"""Loops whose `decide` differs from that of the reference loop, with the reason."""

type Texts = dict[str, set[str]]


@pytest.fixture(scope="module")
def modules(renderer: Renderer) -> Texts:
    """The distinct texts of every module of the package, by its path in there, for all loops, triggers and locks."""
    found: Texts = defaultdict(set)
    defaults = {name: values[0] for name, values in VALUES.items()}
    for chosen in product(*(VALUES[question] for question in BEHAVIOUR)):
        answers = defaults | dict(zip(BEHAVIOUR, chosen, strict=True))
        for name, digest in renderer.tree(answers).items():
            if name.startswith("src/") and name.endswith(".py"):
                path = name.split("/", 2)[2]
                found[path].add(renderer.texts[digest].decode())
    return found


def test_no_module_is_longer_than_a_reader_takes_in_at_once(modules: Texts) -> None:
    lengths = {path: max(map(lines_of, texts)) for path, texts in modules.items()}
    long = {path: length for path, length in lengths.items() if length > MAX_MODULE}

    new = {path: length for path, length in long.items() if path not in LONG}
    assert not new, f"over {MAX_MODULE} lines: split {new} by subject, or give the reason in LONG"
    old = LONG.keys() - long.keys()
    assert not old, f"not over {MAX_MODULE} lines any more: remove {sorted(old)} from LONG"


def test_each_long_module_has_a_reason_of_one_sentence() -> None:
    for path, reason in LONG.items():
        assert len(reason.split()) > 3, f"the reason of {path} is a sentence"
        assert not reason.endswith("."), (
            f"the reason of {path} is one sentence, without a full stop"
        )


def test_no_function_is_longer_than_a_screen(modules: Texts) -> None:
    long = {
        f"{path}: {function.name}": length
        for path, texts in modules.items()
        for text in texts
        for function in functions_in(ast.parse(text))
        if (length := (function.end_lineno or 0) - function.lineno + 1) > MAX_FUNCTION
    }

    new = {name: length for name, length in long.items() if name not in LONG_FUNCTIONS}
    assert not new, f"over {MAX_FUNCTION} lines: split {new}, or give the reason in LONG_FUNCTIONS"
    old = LONG_FUNCTIONS.keys() - long.keys()
    assert not old, f"not over {MAX_FUNCTION} lines any more: remove {sorted(old)}"


@pytest.mark.parametrize("loop", sorted(path.stem for path in LOOPS.glob("*.py")))
def test_a_loop_decides_as_the_reference_loop_does(loop: str) -> None:
    same = decide_in(LOOPS / f"{loop}.py") == decide_in(LOOPS / "reference.py")

    if loop in OTHER_DECISIONS:
        assert not same, f"{loop} decides as reference does: remove it from OTHER_DECISIONS"
    else:
        assert same, (
            f"`decide` of variants/loops/{loop}.py differs from that of reference.py, so a project with another answer"
            " to `loop` skips, holds or acts differently: change all loops alike, or give the reason in OTHER_DECISIONS"
        )


def decide_in(path: Path) -> str:
    """Return the source of the function `decide` of a loop, comments included."""
    text = path.read_text()
    [found] = [each for each in functions_in(ast.parse(text)) if each.name == "decide"]
    return ast.get_source_segment(text, found, padded=True) or ""


def functions_in(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield all functions of a module, also those within others."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def lines_of(text: str) -> int:
    """Return how many lines a text has."""
    return len(text.splitlines())
