"""What an answer must be, whatever was asked."""

import json
import re
from collections.abc import Callable

from .fault import HANG, Account, Fault
from .wire import Answer

LATE = 2.0  # seconds that an answer may take
FIELD = re.compile(r"[^\s:][^:]{0,600}: .")
"""How a refusal begins: with the field."""
LIMITED = re.compile(r"API_MAX_\w+|unavailable at the moment")
"""What a 503 must name: the limit that is met, or the database."""
COMMANDS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)
"""Control, line-breaking, bidirectional, zero-width and half characters."""
NO_SENTENCE = "a refusal is no sentence that names the field"


def refusal_of(status: int, body: bytes) -> str:
    """Return the sentence of a refusal.

    Raises:
        Fault: it is none: not JSON, more than one line, or without the field.
    """
    try:
        said = json.loads(body)["detail"]
    except (ValueError, KeyError, TypeError):
        raise Fault(f"{NO_SENTENCE} ({status})", f"{status} {body[:300]!r}") from None
    if not is_sentence(said):
        raise Fault(f"{NO_SENTENCE} ({status})", f"{status} {said!r:.300}")
    return said


def is_sentence(said: object) -> bool:
    """Tell whether something is one line that names a field."""
    return isinstance(said, str) and not commands_terminal(said) and FIELD.match(said) is not None


def commands_terminal(text: str) -> bool:
    """Tell whether a terminal would obey a text, break its line, or show something else."""
    return COMMANDS.search(text) is not None


def judge(answer: Answer, ready: bool = False) -> None:
    """Look at an answer; with `ready`, that of `/ready`, which is 503 with what is wrong.

    Raises:
        Fault: it is one that nobody may get.
    """
    if answer.status == 503 and not ready:
        _judge_limit(answer)
    elif answer.status >= 500 and not ready:
        raise Fault(f"answer {answer.status}", f"{answer.status} {answer.body[:300]!r}")
    elif 400 <= answer.status < 500 and answer.body:
        refusal_of(answer.status, answer.body)


def _judge_limit(answer: Answer) -> None:
    said = answer.body.decode(errors="replace")
    if "retry-after" not in answer.headers or not LIMITED.search(said):
        raise Fault("503 without a limit and Retry-After", f"{answer.headers} {said[:300]!r}")


def in_time[T](attempt: Callable[[], T], seconds: Callable[[T], float], account: Account) -> T:
    """Do something that must be answered in time; what was late is done once more, alone.

    Raises:
        Fault: it was late twice.
    """
    for repeated in (False, True):
        try:
            result = attempt()
        except TimeoutError:
            took = float("inf")
        else:
            if (took := seconds(result)) <= LATE:
                return result
        if repeated:
            raise Fault(HANG, f"no answer within {LATE:g} s, twice; the last took {took:.1f} s")
        account.late["answers"] += 1
    raise AssertionError("unreachable")
