"""Hostile answers: each is refused with a sentence, or makes a project whose files are what they seem."""

import json
import tomllib
import unicodedata
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from .combinations import Renderer

type Case = tuple[str, str]
"""A question and an answer to it."""

GOOD = {
    "project_name": "My Agent",
    "package_name": "my_agent",
    "description": "It perceives events",
    "author_name": "Ada Lovelace",
    "author_email": "ada@example.com",
}
INVISIBLE = "\x00\x01\t\n\x0b\x0c\r\x1b\x1c\x7f\x80\x85\x9b\xad\u061c\u200b\u200d\u200e\u2028\u2029\u202e\u2066\u2069\ufeff\ufffe\ud800\udfff\U000e0041"
TRICKY = [
    *('"', "'", "'" * 3, '"' * 3, "\\", "\\n", "`id`", "$(id)", "${HOME}", "{" * 2 + " 7 * 7 }}"),
    *("{% raw %}", "{#", "# no", "a: b", "- a", "[a]", "(a)", "*a", "&a", "!a", "%s", "@a", "~"),
    *(
        "null",
        "yes",
        "---",
        "...",
        "<b>",
        "a\xa0b",
        "a\u3000b",
        "\xe9\u0301",
        "\U0001f600",
        "\u05d0\u05d1",
    ),
    *(
        "a" * 101,
        " a",
        "a ",
        "",
        "0",
        ".",
        "-",
        "a..b",
        "../a",
        "a/b",
        "a.%+-b@mail.example.org",
        "con",
        "A" * 39 + "z",
    ),
]
UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""The categories of what nobody sees: controls, format, halves of characters, line breaks."""


def invisible() -> Iterator[Case]:
    """Yield good answers with a character in them that nobody sees."""
    for character in INVISIBLE:
        for question, good in GOOD.items():
            middle = len(good) // 2
            yield question, character + good
            yield question, good[:middle] + character + good[middle:]
            yield question, good + character
        for text in (character, f"a{character}", f"str{character}"):
            quoted = json.dumps(text)
            yield "event_types", f"[{quoted}]"
            yield "event_types", f"[{json.dumps('order.placed' + text)}]"
            yield "event_types", f"{{order.placed: {{{json.dumps('total' + text)}: str}}}}"
            yield "event_types", f"{{order.placed: {{total: {quoted}}}}}"


def tricky() -> Iterator[Case]:
    """Yield answers that mean something to Python, YAML, TOML, Jinja, shells or terminals."""
    for question in GOOD:
        yield from ((question, text) for text in TRICKY)
    for text in TRICKY:
        yield "event_types", text
        yield "event_types", f"[{json.dumps(text)}]"
        yield "event_types", f"{{a.b: {{{json.dumps(text)}: str}}}}"


def refusal_of(renderer: Renderer, questions: dict[str, Any], case: Case) -> tuple[str, Any]:
    """Return why an answer is refused, if it is, and the answer as Copier reads it."""
    name, answer = case
    try:
        value = yaml.safe_load(answer) if questions[name]["type"] == "yaml" else answer
    except yaml.YAMLError as error:  # which Copier then passes on
        return str(error), None
    context = renderer.defaults() | {name: value}
    return renderer.text(questions[name]["validator"], context).strip(), value


@pytest.mark.parametrize("question", [*GOOD, "event_types"])
def test_an_answer_with_an_invisible_character_is_refused_with_a_sentence(
    renderer: Renderer, questions: dict[str, Any], question: str
) -> None:
    cases = [case for case in invisible() if case[0] == question]

    said = {answer: refusal_of(renderer, questions, (question, answer))[0] for _, answer in cases}

    assert len(said) > 80
    accepted = [ascii(answer) for answer, sentence in said.items() if not sentence]
    assert not accepted, f"{question} accepts {', '.join(accepted)}"
    for answer, sentence in said.items():
        ours = question != "event_types" or sentence.startswith(("rename ", "use ", "write "))
        assert not ours or sentence.isprintable(), ascii(answer)


@pytest.mark.parametrize("question", [*GOOD, "event_types"])
def test_what_else_is_hostile_is_refused_or_makes_files_that_are_what_they_seem(
    renderer: Renderer, questions: dict[str, Any], question: str
) -> None:
    plain = set(renderer.files(renderer.defaults()).items())
    accepted = 0
    for case in [case for case in tricky() if case[0] == question]:
        sentence, value = refusal_of(renderer, questions, case)
        if sentence:
            continue
        accepted += 1
        tree = renderer.files(answered(renderer, questions, question, value))
        for name, digest in tree.items() - plain:
            check(name, renderer.texts[digest], {question: value})

    assert accepted, f"{question} refuses everything"


def answered(
    renderer: Renderer, questions: dict[str, Any], name: str, value: Any
) -> dict[str, Any]:
    """Return all answers if one is this, with the names that are derived from a project's."""
    context = renderer.defaults() | {name: value}
    if name == "project_name":
        slug = "{{ project_name | lower | regex_replace('[^a-z0-9]+', '-') }}"
        context["project_slug"] = renderer.text(slug, context)
        package = renderer.text(questions["package_name"]["default"], context)
        if not refusal_of(renderer, questions, ("package_name", package))[0]:
            context["package_name"] = package
    return context


def check(name: str, data: bytes, answer: dict[str, Any]) -> None:
    """Read a file of a project as those do that it is for."""
    text = data.decode()
    unseen = {each for each in text if each not in "\n\t" and unicodedata.category(each) in UNSEEN}
    assert not unseen, f"{name} has {unseen!a} for {answer}"
    if name.endswith(".py"):
        compile(text, name, "exec")
    elif name.endswith((".yml", ".yaml")):
        yaml.safe_load(text)
    elif name.endswith(".toml"):
        project = tomllib.loads(text)["project"]
        assert project["description"] == answer.get("description", project["description"])
        [author] = project["authors"]
        assert author["name"] == answer.get("author_name", author["name"])
