"""Copier's prompts for this template, typed into and read at a terminal of 80 columns."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from .terminal import BACKSPACE, DELETE_LINE, DONE, ENTER, Terminal
from .test_rendering import files_of

COPY = ["copier", "copy", "--vcs-ref", "HEAD"]

WRONG = {
    "project_name": ("7 Agents", "begin with a letter, A to Z."),
    "package_name": ("json", "choose another: json is a module o"),
    "description": ('say "hello"', "leave out quotation marks and \\ ` $"),
    "author_name": ("Ada {", "leave out quotation marks and \\ ` $"),
    "author_email": ("nobody", "write it like ada@example.com."),
    "event_types": ("order.placed: {version: str}", "rename field version of order.place"),
}
"""A wrong answer to each question that takes any text, and what 80 columns show of the refusal."""

RIGHT = {
    "project_name": "Order Desk",
    "package_name": "orders",
    "description": "Watches orders",
    "author_name": "Ada",
    "author_email": "ada@example.org",
    "event_types": 'order.placed: {order_id: str, note: "str?"}\norder.paid: {tags: [str]}',
}


@pytest.fixture
def at_prompts(template: Path, tmp_path: Path) -> Terminal:
    """What somebody sees who types `copier copy`."""
    return Terminal([*COPY, str(template), "made"], tmp_path)


def test_each_question_can_be_read_and_enter_throughout_makes_the_defaults(
    at_prompts: Terminal, questions: dict[str, dict[str, Any]], template: Path, tmp_path: Path
) -> None:
    for question in questions.values():
        *_, last = lines = question["help"].strip().splitlines()
        screen = at_prompts.shows(last)
        assert all(line in screen for line in lines)
        choices = question.get("choices", {})
        for choice in choices:
            assert choice in at_prompts.shows(choice)
        at_prompts.type(DONE if question.get("multiline") else ENTER)

    assert at_prompts.end() == 0, at_prompts.screen()
    asked = files_of(tmp_path / "made")
    copy = [*COPY, "--defaults", "--quiet", str(template), "made"]
    (tmp_path / "unasked").mkdir()
    subprocess.run(copy, cwd=tmp_path / "unasked", check=True)
    assert asked == files_of(tmp_path / "unasked" / "made")


def test_a_refusal_shows_its_remedy_and_the_next_answer_is_taken(
    at_prompts: Terminal, questions: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    assert {name for name, one in questions.items() if "choices" not in one} == set(WRONG)
    for name, question in questions.items():
        at_prompts.shows(question["help"].strip().splitlines()[-1])
        accept = DONE if question.get("multiline") else ENTER
        if name in WRONG:
            wrong, remedy = WRONG[name]
            empty(at_prompts, question)
            at_prompts.type(wrong + accept)
            at_prompts.shows(f"Validation error for question '{name}': {remedy}")
            at_prompts.type(BACKSPACE * len(wrong) + RIGHT[name].replace("\n", ENTER))
        at_prompts.type(accept)

    assert at_prompts.end() == 0, at_prompts.screen()
    made = tmp_path / "made"
    assert "Order Desk" in (made / "README.md").read_text()
    events = (made / "src" / "orders" / "core" / "events.py").read_text()
    assert "order_id: str\n    note: str | None = None\n" in events
    assert "class OrderPaidEvent(BaseEvent):" in events


def empty(terminal: Terminal, question: dict[str, Any]) -> None:
    """Delete the answer that stands there."""
    for _ in range(3 if question.get("multiline") else 1):
        terminal.type(DELETE_LINE + BACKSPACE)


def copied(template: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `copier copy` without prompts."""
    without = [part for name in ("src", "tests", "docs") for part in ("--exclude", name)]
    command = [*COPY, "--defaults", *without, *arguments]  # fewer files are written sooner
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def test_a_refusal_of_data_comes_before_the_traceback(template: Path, tmp_path: Path) -> None:
    wrong = ("--data", "event_types={order.placed: {version: str}}")

    refused = copied(template, tmp_path, *wrong, str(template), "made")

    assert refused.returncode != 0
    first, _, traceback = refused.stderr.partition("Traceback")
    assert traceback
    assert first.startswith("These answers are refused:")
    assert "event_types: rename field version of order.placed: reserved are id," in first
    assert not (tmp_path / "made").exists()


def test_data_that_is_right_is_taken_without_a_word(template: Path, tmp_path: Path) -> None:
    right = [part for name, value in RIGHT.items() for part in ("--data", f"{name}={value}")]

    made = copied(template, tmp_path, *right, str(template), "made")

    assert made.returncode == 0, made.stderr
    assert "refused" not in made.stderr


@pytest.mark.parametrize(
    ("folder", "where", "step"),
    [
        (".", "My Agent is here.", None),
        ("my agent", "My Agent is in my agent.", "cd 'my agent'"),
        ("it's", "My Agent is in it's.", "cd 'it'\\''s'"),
        ("plain/made", "My Agent is in plain/made.", "cd plain/made"),
    ],
)
def test_the_closing_message_leads_into_the_project(
    template: Path, tmp_path: Path, folder: str, where: str, step: str | None
) -> None:
    made = copied(template, tmp_path, str(template), folder)

    _, _, closing = made.stderr.partition(where)
    assert closing, made.stderr
    commands = [line.strip() for line in closing.splitlines() if line.startswith("    ")]
    assert [line for line in commands if line.startswith("cd ")] == ([step] if step else [])
    there = f"{step or 'true'} && test -f .copier-answers.yml"
    assert subprocess.run(["sh", "-c", there], cwd=tmp_path).returncode == 0
    assert all(len(line) <= 80 for line in closing.splitlines())


def test_a_copy_that_pretends_promises_no_project(template: Path, tmp_path: Path) -> None:
    made = copied(template, tmp_path, "--pretend", str(template), "made")

    assert "--pretend: no file was written." in made.stderr
    assert "cd " not in made.stderr.partition("--pretend")[2]
    assert not (tmp_path / "made").exists()
