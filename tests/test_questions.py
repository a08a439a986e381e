"""The questions: each explains itself, and a wrong answer is refused with one sentence."""

from typing import Any

import pytest

from demo.render import REPOSITORY

from .conftest import Copy

REFUSED = [
    ("project_name", "A", "use 2 to 40 characters"),
    ("project_name", "7 Agents", "a letter first"),
    ("project_name", "A" * 41, "use 2 to 40 characters"),
    ("project_name", 'My "Agent"', "letters, digits"),
    ("package_name", "a", "use 2 to 30"),
    ("package_name", "My_Agent", "lower-case"),
    ("package_name", "my-agent", "lower-case"),
    ("package_name", "a" * 31, "use 2 to 30"),
    ("package_name", "class", "a word of Python itself"),
    ("package_name", "match", "a word of Python itself"),
    ("package_name", "json", "Python's standard library"),
    ("package_name", "fastapi", "something that the service depends on"),
    ("package_name", "tests", "something that the service depends on"),
    ("description", "", "write one line"),
    ("description", 'say "hello"', "without quotation marks"),
    ("description", "two\nlines", "write one line"),
    ("author_name", "back\\slash", "write one line"),
    ("author_email", "nobody", "ada@example.com"),
    ("license", "GPL", "Invalid choice"),
    ("python_version", "3.11", "Invalid choice"),
    ("loop", "fast", "Invalid choice"),
    ("trigger", "never", "Invalid choice"),
    ("locks", "zookeeper", "Invalid choice"),
    ("ci", "jenkins", "Invalid choice"),
    ("event_types", "order", "write names with their fields"),
    ("event_types", "7", "write names with their fields"),
    ("event_types", "{Order: {a: str}}", "no name for an event"),
    ("event_types", "{a..b: {a: str}}", "no name for an event"),
    ("event_types", f"[{'a' * 37}]", "no name for an event"),
    ("event_types", "[order.placed, 7]", "no name for an event"),
    ("event_types", "[ws.message]", "clashes with an event type"),
    ("event_types", "[http.request]", "clashes with an event type"),
    ("event_types", "[timer]", "clashes with an event type"),
    ("event_types", "[agent.dropped]", "clashes with an event type"),
    ("event_types", "[agent_dropped]", "clashes with an event type"),
    ("event_types", "[base]", "clashes with an event type"),
    ("event_types", "[order.placed, order_placed]", "a second class OrderPlacedEvent"),
    ("event_types", "{order.placed: str}", "needs its fields as a mapping"),
    ("event_types", "{order.placed: {order id: str}}", "no name for one"),
    ("event_types", "{order.placed: {class: str}}", "no name for one"),
    ("event_types", "{order.placed: {id: str}}", "a name that the service uses already"),
    ("event_types", "{order.placed: {model_x: str}}", "a name that the service uses already"),
    ("event_types", "{order.placed: {total: decimal}}", "has the type decimal"),
    ("event_types", "{order.placed: {total: 'list[list[str]]'}}", "has the type list[list[str]]"),
    ("event_types", "{order.placed: {total: null}}", "has the type"),
    ("event_types", f"[{', '.join(f'type.n{n}' for n in range(51))}]", "at most 50"),
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


@pytest.mark.parametrize(("question", "answer", "sentence"), REFUSED)
def test_a_wrong_answer_is_refused_with_a_sentence(
    copy: Copy, question: str, answer: str, sentence: str
) -> None:
    refused = copy(**{question: answer})

    assert refused.exception is not None, f"{question}={answer} was accepted"
    assert question in str(refused.exception), "the sentence names the question"
    assert sentence in str(refused.exception)


@pytest.mark.parametrize(("question", "answer"), ACCEPTED)
def test_an_unusual_answer_is_accepted(copy: Copy, question: str, answer: str) -> None:
    accepted = copy(**{question: answer})

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


def test_each_question_has_a_good_and_a_bad_answer_here(questions: dict[str, Any]) -> None:
    assert {question for question, *_ in REFUSED} == set(questions)
    assert {question for question, _ in ACCEPTED} == set(questions)
