"""Arranges the journal of a decision as a transcript: what the model was asked, answered and called, in order."""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Literal, NamedTuple

from pydantic_core import from_json

from ..core.effects import NOT_EXECUTED
from ..infra.store.inspection import Part, Unit
from .text import brief, pretty

MAX_TEXT = 6_000  # characters of one part on the page of a decision
MAX_TEXTS = 300_000  # characters of all parts on it; after these, parts have MIN_TEXT
MIN_TEXT = 200
MAX_STEP_TEXT = 1_000_000  # characters of one part on the page of one step
MAX_PRETTY = 100_000  # characters of JSON that is indented

LABELS = {
    "instructions": "Instructions",
    "system-prompt": "Instructions",
    "user-prompt": "Prompt",
    "retry-prompt": "Asked to try again",
    "tool-return": "Result",
    "text": "Answer",
    "thinking": "Thinking",
    "tool-call": "Calls",
    "result": "Result",
}


class Line(NamedTuple):
    """A part of a transcript."""

    label: str
    name: str | None
    """The tool's name, if it is about one."""
    kind: str
    text: str
    is_data: bool
    """Whether the text is JSON."""
    size: int
    """The characters of the whole."""
    cut: bool


class Step(NamedTuple):
    """A model request or a tool call."""

    number: int
    unit: Unit
    asked: list[Line]
    answer: list[Line]
    effect: Literal["executed", "not executed"] | None
    """What a call of an effect did; None for others."""

    @property
    def arguments(self) -> str:
        """The arguments of a tool call in one line."""
        return _in_line(self.unit.asked)

    @property
    def result(self) -> str:
        """The result of a tool call in one line."""
        return _in_line(self.unit.answer)


class Usage(NamedTuple):
    """What the requests of a decision took."""

    requests: int
    calls: int
    input_tokens: int
    output_tokens: int
    cost: Decimal
    """US dollars of the requests whose price is known."""
    unpriced: int
    """The requests whose price is not known."""


def transcribe(units: Sequence[Unit], only: int | None = None) -> list[Step]:
    """Return the steps of a decision, or the only one with this number, from 1, with longer texts."""
    budget = _TextBudget(MAX_TEXTS, MAX_TEXT) if only is None else _TextBudget(None, MAX_STEP_TEXT)
    elsewhere = _ShownElsewhere(units)
    steps: list[Step] = []
    for number, unit in enumerate(units, 1):
        asked = [each for each in unit.asked if only or not elsewhere.has(unit, each)]
        if only in (None, number):
            shown = list(map(budget.line, asked)), list(map(budget.line, unit.answer))
            steps.append(Step(number, unit, *shown, effect_of(unit)))
    return steps


def effect_of(unit: Unit) -> Literal["executed", "not executed"] | None:
    """Return what a tool call did outside; None if it called nothing that is marked `@effect`."""
    if not unit.is_effect:
        return None
    skipped = any(part.text == NOT_EXECUTED for part in unit.answer)
    return "not executed" if skipped else "executed"


def usage_of(units: Sequence[Unit]) -> Usage:
    """Return what the recorded requests of a decision took."""
    requests = [unit for unit in units if unit.kind == "request"]
    return Usage(
        len(requests),
        len(units) - len(requests),
        sum(unit.input_tokens or 0 for unit in requests),
        sum(unit.output_tokens or 0 for unit in requests),
        sum((unit.cost for unit in requests if unit.cost is not None), Decimal(0)),
        sum(unit.cost is None for unit in requests),
    )


def effects_of(steps: Sequence[Step]) -> Iterator[Step]:
    """Return the calls of effects."""
    return (step for step in steps if step.effect is not None)


class _ShownElsewhere:
    """What a transcript shows elsewhere: results of recorded calls, calls by an answer, and the same instructions."""

    def __init__(self, units: Sequence[Unit]) -> None:
        tools = [part for unit in units if unit.kind == "tool" for part in unit.asked]
        answers = [part for unit in units if unit.kind == "request" for part in unit.answer]
        self._results = {part.call_id for part in tools}
        self._calls = {part.call_id for part in answers if part.kind == "tool-call"}
        self._instructions: set[str] = set()

    def has(self, unit: Unit, part: Part) -> bool:
        """Return whether this part of what was asked is shown elsewhere."""
        if part.kind == "tool-return":
            return part.call_id is not None and part.call_id in self._results
        if unit.kind == "tool":
            return part.call_id is not None and part.call_id in self._calls
        if part.kind not in {"instructions", "system-prompt"}:
            return False
        repeated = part.text in self._instructions
        self._instructions.add(part.text)
        return repeated


class _TextBudget:
    """The characters that a page has left."""

    def __init__(self, left: int | None, most: int) -> None:
        self._left = left
        self._most = most

    def line(self, part: Part) -> Line:
        """Return a part as a line, shortened to what is left of the budget."""
        most = self._most
        if self._left is not None:
            most = max(min(most, self._left), MIN_TEXT)
            self._left -= min(most, len(part.text))
        text, is_data = _indented(part.text)
        label = LABELS.get(part.kind, part.kind)
        cut = len(text) > most
        return Line(label, part.name, part.kind, text[:most], is_data, len(part.text), cut)


def _in_line(parts: Sequence[Part]) -> str:
    text = parts[0].text if parts else ""
    value = _parsed(text)
    return brief(text if value is None else value)


def _indented(text: str) -> tuple[str, bool]:
    """Return JSON objects and lists with indentation, other texts as they are."""
    value = _parsed(text)
    return (text, False) if value is None else (pretty(value, 2 * MAX_PRETTY).text, True)


def _parsed(text: str) -> object:
    """Return the object or list that the text is in JSON; None for other texts, and for long ones."""
    if not text.startswith(("{", "[")) or len(text) > MAX_PRETTY:
        return None
    try:
        return from_json(text)
    except ValueError:
        return None
