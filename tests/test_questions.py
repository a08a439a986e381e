"""The questions: each explains itself, and a wrong answer is refused with one sentence."""

import re
from typing import Any

import pytest

from demo.render import REPOSITORY

from .conftest import Copy

COLUMNS = 80
"""The width of a terminal, of which Copier's own words take about half."""

CONNECT_ERRORS = [
    ("project_name", "A", "use 2 to 40 characters."),
    ("project_name", "7 Agents", "begin with a letter"),
    ("project_name", "A" * 41, "use 2 to 40 characters."),
    ("project_name", 'My "Agent"', "use letters, digits, spaces, . _ -"),
    ("project_name", "My Agent\n", "use letters, digits, spaces, . _ -"),
    ("project_name", "My Agent.", "end with a letter or a digit."),
    ("package_name", "a", "use 2 to 30 characters."),
    ("package_name", "My_Agent", "begin with a letter, a to z."),
    ("package_name", "my-agent", "use a to z, 0 to 9 and _ only."),
    ("package_name", "my_", "end with a letter or a digit."),
    ("package_name", "a" * 31, "use 2 to 30 characters."),
    ("package_name", "class", "choose another: class is a keyword"),
    ("package_name", "match", "choose another: match is a keyword"),
    ("package_name", "json", "choose another: json is a module"),
    ("package_name", "fastapi", "choose another: fastapi is a name"),
    ("package_name", "tests", "choose another: tests is a name"),
    ("description", "", "write one line of 1 to 100"),
    ("description", 'say "hello"', "leave out quotation marks and"),
    ("description", "two\nlines", "leave out invisible characters."),
    ("description", "invisible \x7f", "leave out invisible characters."),
    ("description", " hello", "leave out the space at either end."),
    ("author_name", "back\\slash", "leave out quotation marks and \\ `"),
    ("author_name", "A" * 81, "write one line of 1 to 80"),
    ("author_email", "nobody", "write it like ada@example.com."),
    ("author_email", "ada@example.com\n", "write it like ada@example.com."),
    ("license", "GPL", "Invalid choice"),
    ("python_version", "3.11", "Invalid choice"),
    ("loop", "fast", "Invalid choice"),
    ("trigger", "never", "Invalid choice"),
    ("locks", "zookeeper", "Invalid choice"),
    ("ci", "jenkins", "Invalid choice"),
    ("event_types", "order", "write order.placed: {order_id: str}"),
    ("event_types", "7", "write order.placed: {order_id: str}"),
    ("event_types", "{Order: {a: str}}", "rename Order: use 2 to 36"),
    ("event_types", "{a..b: {a: str}}", "rename a..b: use 2 to 36"),
    ("event_types", f"[{'a' * 37}]", "rename aaaa"),
    ("event_types", '["order.placed\\x85\\n"]', "rename order.placed??: use"),
    ("event_types", "[order.placed, 7]", "rename 7: use 2 to 36"),
    ("event_types", "[ws.message]", "rename ws.message: it clashes"),
    ("event_types", "[http.request]", "rename http.request: it"),
    ("event_types", "[timer]", "rename timer: it clashes with"),
    ("event_types", "[agent.dropped]", "rename agent.dropped: it"),
    ("event_types", "[agent_dropped]", "rename agent_dropped: it"),
    ("event_types", "[operator.action]", "rename operator.action: it"),
    ("event_types", "[base]", "rename base: it clashes with"),
    ("event_types", "[order.placed, order_placed]", "rename order_placed: it makes"),
    ("event_types", "{order.placed: str}", "write fields as {order_id: str};"),
    ("event_types", "{order.placed: {order id: str}}", "rename field order id of"),
    ("event_types", "{order.placed: {class: str}}", "rename field class of"),
    ("event_types", "{order.placed: {id: str}}", "rename field id of"),
    ("event_types", "{order.placed: {version: str}}", "rename field version of"),
    ("event_types", "{order.placed: {model_x: str}}", "rename field model_x of"),
    ("event_types", "{order.placed: {total: decimal}}", "use str, int, float, bool, datetime"),
    ("event_types", "{order.placed: {total: 'list[list[str]]'}}", "use str, int, float, bool,"),
    ("event_types", "{order.placed: {total: null}}", "use str, int, float, bool,"),
    ("event_types", f"[{', '.join(f'type.n{n}' for n in range(51))}]", "use at most 50 types."),
]

ACCEPTED = [
    ("project_name", "Ab"),
    ("project_name", "A" * 40),
    ("project_name", "Order-Desk v2.0"),
    ("package_name", "ab"),
    ("package_name", "a" * 30),
    ("package_name", "agent2_core"),
    ("description", "Ada's agent: 100% (mostly) <fine> & quick, #1!"),
    ("author_name", "Ada O'Neill"),
    ("author_email", "ada.l+x@mail.example.org"),
    ("license", "proprietary"),
    ("python_version", "3.13"),
    ("event_types", "[]"),
    ("event_types", "{}"),
    ("event_types", "[order.placed, order.paid]"),
    ("event_types", "[dropped, call.dropped]"),
    ("event_types", "{order.placed: {}, order.paid: null}"),
    ("event_types", "{a.b: {x: [str], y: 'list[datetime]?', z: 'float?'}}"),
    ("loop", "realtime"),
    ("trigger", "immediate"),
    ("locks", "redis"),
    ("ci", "none"),
]


@pytest.mark.parametrize(("question", "answer", "sentence"), CONNECT_ERRORS)
def test_a_wrong_answer_is_refused_with_a_sentence(
    ask: Copy, question: str, answer: str, sentence: str
) -> None:
    refused = ask(**{question: answer})

    assert refused.exception is not None, f"{question}={answer} was accepted"
    assert question in str(refused.exception), "the sentence names the question"
    assert sentence in str(refused.exception)[:COLUMNS], "a prompt cuts the remedy"


@pytest.mark.parametrize(("question", "answer"), ACCEPTED)
def test_an_unusual_answer_is_accepted(ask: Copy, question: str, answer: str) -> None:
    accepted = ask(**{question: answer})

    assert accepted.exception is None


def test_each_question_explains_itself_and_is_documented(
    questions: dict[str, dict[str, Any]],
) -> None:
    page = (REPOSITORY / "docs" / "questions.md").read_text()
    for name, question in questions.items():
        assert question.get("help"), f"{name} has no help"
        assert "default" in question, f"{name} has no default"
        assert "choices" in question or "validator" in question, f"{name} accepts anything"
        section = page.partition(f"## {name}\n")[2].partition("\n## ")[0]
        assert "On update" in section, f"docs/questions.md does not say what updates do to {name}"


def test_the_page_has_the_names_that_are_reserved() -> None:
    validator = (REPOSITORY / "variants" / "event_types" / "validate.jinja").read_text()
    [reserved] = re.findall(r"set reserved = '(.*?)'", validator)
    section = (REPOSITORY / "docs" / "questions.md").read_text().partition("## event_types\n")[2]

    missing = [name for name in reserved.split() if f"`{name}`" not in section]

    assert not missing


def test_each_question_has_a_good_and_a_bad_answer_here(questions: dict[str, Any]) -> None:
    assert {question for question, *_ in CONNECT_ERRORS} == set(questions)
    assert {question for question, _ in ACCEPTED} == set(questions)
