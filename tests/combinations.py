"""Every combination of answers, rendered: quickly, since most answers do not reach most files.

A worked example with three questions of two choices each, so eight projects:

    answers                               README.md     locks.py      LICENSE
    loop=a  locks=memory    license=MIT   looks at      looks at      looks at
    loop=a  locks=postgres  license=MIT   loop          locks         license
    ...                                   2 renderings  2 renderings  2 renderings

Jinja reports which answers a file looks at. `Renderer` renders a file once for each combination of those: six
renderings, not twenty-four. A project is a mapping of paths to digests of such renderings, so two projects share
`README.md` if they have the same loop. Tests render some projects with Copier as well: both ways must agree.
"""

import hashlib
import itertools
import re
import shutil
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import copier
import yaml
from jinja2 import Environment, FileSystemLoader, Template
from jinja2.runtime import Context

from demo.render import REPOSITORY


def offered_by(template: Path) -> dict[str, list[str]]:
    """Return the choices of each question of a template that has some, the default first."""
    return offered_in((template / "copier.yml").read_text())


def offered_in(text: str) -> dict[str, list[str]]:
    """Return the choices of each question of a `copier.yml` that has some, the default first."""
    questions = yaml.safe_load(text)
    found: dict[str, list[str]] = {}
    for name, question in questions.items():
        if not name.startswith("_") and "choices" in question:
            choices: dict[str, str] | list[str] = question["choices"]
            values = choices.values() if isinstance(choices, dict) else choices
            found[name] = sorted(values, key=question["default"].__ne__)
    return found


OFFERED = offered_by(REPOSITORY)

ALL_FIELDS = (
    "{order.placed: {order_id: str, count: int, total: float, paid: bool, at: datetime,"
    " tags: [str], sizes: 'list[int]?', note: 'str?'}, order.paid: {}}"
)

VALUES: dict[str, list[Any]] = {
    "loop": OFFERED["loop"],
    "trigger": OFFERED["trigger"],
    "locks": OFFERED["locks"],
    "event_types": ["error.reported: {message: str, service: str}", "[]", "[job.done]", ALL_FIELDS],
    "license": OFFERED["license"],
    "python_version": OFFERED["python_version"],
    "ci": OFFERED["ci"],
    "project_name": ["My Agent", "Ab", "A" * 39 + "z"],
}
"""What each question is answered with, the default first."""

BEHAVIOUR = ("loop", "trigger", "locks")
CODE_ANSWERS = ("loop", "locks", "event_types")
"""The answers that all code depends on, by its settings and events."""

ANSWERS_FILE = ".copier-answers.yml"

CODE = ("src/", "tests/", "scripts/")
SETTINGS = ("pyproject.toml", "/config.py")  # of Ruff, and what shows it where the package is

type Answers = dict[str, str]


def combinations() -> Iterator[Answers]:
    """Yield every combination of answers."""
    for values in itertools.product(*VALUES.values()):
        yield dict(zip(VALUES, values, strict=True))


@cache
def behaviours() -> list[Answers]:
    """Return one combination for each behaviour, so that every two answers meet in one of them."""
    others = [name for name in VALUES if name not in BEHAVIOUR]
    missing = {pair for answers in combinations() for pair in pairs(answers)}
    chosen: list[Answers] = []
    for values in itertools.product(*(VALUES[name] for name in BEHAVIOUR)):
        behaviour = dict(zip(BEHAVIOUR, values, strict=True))
        best = max(
            (
                behaviour | dict(zip(others, rest, strict=True))
                for rest in itertools.product(*(VALUES[name] for name in others))
            ),
            # Of those that bring as much, one whose code is like that of others: less is to be tested.
            key=lambda answers: (
                len(missing & set(pairs(answers))),
                any(all(answers[name] == one[name] for name in CODE_ANSWERS) for one in chosen),
            ),
        )
        missing -= set(pairs(best))
        chosen.append(best)
    if missing:
        raise AssertionError(f"these answers never meet: {missing}")
    return chosen


def compared(projects: list[Answers]) -> list[Answers]:
    """Choose projects in which every answer of all is, and every two answers about behaviour."""
    wanted = {name: set(singles_and_pairs(answers)) for name, answers in enumerate(projects)}
    missing = set[frozenset[tuple[str, str]]]().union(*wanted.values())
    chosen: list[Answers] = []
    while missing:
        best = max(wanted, key=lambda name: len(missing & wanted[name]))
        missing -= wanted[best]
        chosen.append(projects[best])
    return chosen


def singles_and_pairs(answers: Answers) -> Iterator[frozenset[tuple[str, str]]]:
    """Yield every answer of a combination, and every two of those about behaviour."""
    yield from (frozenset([item]) for item in answers.items())
    behaviour = {name: answers[name] for name in BEHAVIOUR}
    yield from map(frozenset, pairs(behaviour))


def pairs(answers: Answers) -> Iterable[tuple[tuple[str, str], ...]]:
    """Return every two answers of a combination."""
    return itertools.combinations(sorted(answers.items()), 2)


def named(answers: Answers) -> str:
    """Return a name for a combination that tells it from the others: what is not a default."""
    changed = [
        f"{name}={VALUES[name].index(value) if name in ('event_types', 'project_name') else value}"
        for name, value in answers.items()
        if value != VALUES[name][0]
    ]
    return " ".join(changed) or "defaults"


@dataclass
class TemplateFile:
    """One file of the template, with its rendering for each combination of the answers that it looks at."""

    path: Path
    looked_at: tuple[str, ...] = ()
    """The names of all answers that a rendering of it has looked at so far."""
    renderings: dict[tuple[Any, ...], tuple[str, str] | None] = field(
        default_factory=dict[tuple[Any, ...], tuple[str, str] | None]
    )
    """By the values of those answers, the path and the digest of what was rendered; None if that is no file."""


class Renderer:
    """Renders projects from one template, as Copier does."""

    def __init__(self, template: Path, scratch: Path) -> None:
        self._template = template
        self._scratch = scratch
        self._root = template / "template"
        self._offered = offered_by(template)
        self._contexts: dict[tuple[str, str], dict[str, Any]] = {}
        self._looked_at: set[str] = set()
        self._questions = scratch.with_name(f"{scratch.name}-questions")
        self._env = self._environment()
        self._compiled: dict[str, Template] = {}
        self.texts: dict[str, bytes] = {}
        """What the files say, by digest."""
        self._template_files = [
            TemplateFile(path) for path in sorted(self._root.rglob("*")) if path.is_file()
        ]

    def offers(self, answers: Answers) -> bool:
        """Tell whether this template has these answers; one of before lacks what is new."""
        return all(value in self._offered.get(name, [value]) for name, value in answers.items())

    def tree(self, answers: Answers) -> dict[str, str]:
        """Return the digests of a project's files by their paths, the answers file aside."""
        return self.files(self._context(answers))

    def defaults(self) -> dict[str, Any]:
        """Return the default answers, with those that are derived from them."""
        return dict(self._context({name: values[0] for name, values in VALUES.items()}))

    def text(self, template: str, context: dict[str, Any]) -> str:
        """Render a text of copier.yml, such as a validator."""
        return self._compile(template).render(context)

    def _compile(self, text: str) -> Template:
        if text not in self._compiled:
            self._compiled[text] = self._env.from_string(text)
        return self._compiled[text]

    def files(self, context: dict[str, Any]) -> dict[str, str]:
        """Return the digests of the files that these answers, derived ones included, make."""
        tree: dict[str, str] = {}
        values = {
            name: value if isinstance(value, Hashable) else repr(value)
            for name, value in context.items()
        }
        for file in self._template_files:
            if (found := self._find(file, context, values)) is not None:
                tree[found[0]] = found[1]
        return tree

    def write(self, tree: dict[str, str], target: Path) -> None:
        """Write a project's files, which no longer may look alike only."""
        for name, digest in tree.items():
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.texts[digest])

    def _find(
        self, file: TemplateFile, context: dict[str, Any], values: dict[str, Any]
    ) -> tuple[str, str] | None:
        key = tuple([values.get(name) for name in file.looked_at])
        if key in file.renderings:
            return file.renderings[key]
        self._looked_at.clear()
        found = self._render(file.path, context)
        if new := self._looked_at.difference(file.looked_at):
            file.looked_at += tuple(new)
            file.renderings.clear()  # their keys lack the new names
            key = tuple([values.get(name) for name in file.looked_at])
        file.renderings[key] = found
        return found

    def _render(self, path: Path, context: dict[str, Any]) -> tuple[str, str] | None:
        if "_copier_conf" in path.name:  # the answers file
            return None
        parts = [self._compile(part).render(context) for part in path.relative_to(self._root).parts]
        if not all(parts):
            return None
        name = "/".join(parts)
        data = path.read_bytes()
        if name.endswith(".jinja"):
            name = name.removesuffix(".jinja")
            data = self._compile(data.decode()).render(context).encode()
        digest = hashlib.sha256(data).hexdigest()
        self.texts[digest] = data
        return name, digest

    def _context(self, answers: Answers) -> dict[str, Any]:
        """Return all answers, with those that Copier derives or reads as YAML."""
        asked = {name: answers[name] for name in ("project_name", "event_types")}
        key = (asked["project_name"], asked["event_types"])
        if key not in self._contexts:
            worker = self._worker(asked)
            self._contexts[key] = dict(worker.answers.combined)
        plain = {name: value for name, value in answers.items() if name not in asked}
        return self._contexts[key] | plain

    def _environment(self) -> Environment:
        looked_at = self._looked_at

        class Watched(Context):
            def resolve_or_missing(self, key: str) -> Any:
                looked_at.add(key)
                return super().resolve_or_missing(key)

        env = self._worker({}).jinja_env
        env.context_class = Watched
        env.loader = FileSystemLoader(self._template)  # Copier has deleted the clone that it used
        return env

    def _worker(self, answers: dict[str, str]) -> Any:  # Copier's own type is not public
        if not self._questions.exists():
            copy_questions(self._template, self._questions)
        return copier.run_copy(
            str(self._questions),
            self._scratch,
            data=answers,
            defaults=True,
            quiet=True,
            pretend=True,
        )


def copy_questions(template: Path, target: Path) -> None:
    """Copy what asks a template's questions, without files to render, which would take seconds each time."""
    (target / "template").mkdir(parents=True)
    shutil.copy(template / "copier.yml", target)
    shutil.copytree(template / "variants", target / "variants")


@dataclass
class Trees:
    """All projects."""

    by_answers: list[tuple[Answers, dict[str, str]]]
    texts: dict[str, bytes]
    before: "Trees | None" = None
    """What was there at the last commit, of which nothing is to be looked at again."""

    @classmethod
    def of(cls, renderer: "Renderer", before: "Trees | None" = None) -> "Trees":
        """Render all projects."""
        known = filter(renderer.offers, combinations())
        found = [(answers, renderer.tree(answers)) for answers in known]
        return cls(found, renderer.texts, before)

    def files(self) -> set[tuple[str, str]]:
        """Return the path and the digest of every distinct file."""
        return {item for _, tree in self.by_answers for item in tree.items()}

    def having_each_file(self) -> Iterable[dict[str, str]]:
        """Yield parts of projects in which every distinct file is once, with what says how to look at it."""
        known = self.before.files() if self.before else set[tuple[str, str]]()
        for _, tree in self.by_answers:
            if new := tree.items() - known:
                known |= new
                marks = {name for name in tree if name.endswith(SETTINGS)}
                yield dict(new) | {name: tree[name] for name in marks}

    def of_code(self) -> dict[str, tuple[Answers, dict[str, str]]]:
        """Return one project for each distinct code, by what makes it so; names make none."""
        found: dict[frozenset[tuple[str, str]], tuple[Answers, dict[str, str]]] = {}
        for answers, tree in self.by_answers:
            if answers["project_name"] == VALUES["project_name"][0]:
                code = code_in(tree)
                found.setdefault(frozenset(code.items()), (answers, code))
        old = self.before.codes() if self.before else set[frozenset[tuple[str, str]]]()
        return {
            named(answers): (answers, code)
            for key, (answers, code) in found.items()
            if key not in old
        }

    def codes(self) -> set[frozenset[tuple[str, str]]]:
        """Return every distinct code, however the project is called."""
        return {frozenset(code_in(tree).items()) for _, tree in self.by_answers}


def unrendered(name: str, text: str) -> list[str]:
    """Return what is left of the template's Jinja in a rendered file.

    The console renders its own templates; its page for owners shows one, and its tests have two expressions.
    """
    ours = "" if name.endswith(".html") else re.sub(r"(?s)```jinja\n.*?```", "", text)
    ours = re.sub(r"\{\{ (7 \* 7|it|ui\.token\(\)) \}\}", "", ours)
    # GitHub's own expressions start with a dollar sign, Renovate's have three braces.
    return re.findall(r"(?<![${])\{\{(?![.{]).*|\{%.*|\{#.*", ours)


def code_in(tree: dict[str, str]) -> dict[str, str]:
    """Return the part of a project that Python runs."""
    return {
        name: digest
        for name, digest in tree.items()
        if name.startswith(CODE) and name.endswith(".py")
    }
