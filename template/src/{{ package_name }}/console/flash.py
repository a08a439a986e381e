"""The result of an action, shown on the page that follows it. An address names a sentence, and cannot bring its own."""

from collections.abc import Mapping

from .navigation import url

SENTENCES = {
    "retried": ("{count} dead letter is retried.", "{count} dead letters are retried."),
    "purged": ("{count} dead letter was purged.", "{count} dead letters were purged."),
    "published": ("{count} event was published.", "{count} events were published."),
    "repeated": ("The event was published before.",) * 2,
    "ticked": ("The timer ticked.",) * 2,
    "paused": ("The subscriber is paused.",) * 2,
    "resumed": ("The subscriber claims events again.",) * 2,
    "erased": ("{count} event was erased.", "{count} events were erased."),
    "unchanged": ("The subscriber was in this state already: nothing changed.",) * 2,
    "nothing": ("Nothing matched any more.",) * 2,
}
"""What an action came to, for one and for several."""

MORE = frozenset({"retried", "purged"})
"""After which `more` counts the dead letters that were not confirmed."""
MAX_DIGITS = 12


def with_flash(path: str, done: str, count: int = 1, **query: object) -> str:
    """Return the address of a page that shows the result of an action first."""
    return url(path, **query, done=done, count=count)


def flash_of(query: Mapping[str, str]) -> str | None:
    """Return the sentence that an address names; None if it names none."""
    done, count = query.get("done", ""), query.get("count", "1")
    forms = SENTENCES.get(done)
    if forms is None or not _is_count(count):
        return None
    sentence = forms[int(count) != 1].format(count=f"{int(count):,}")
    more = query.get("more", "")
    if done not in MORE or not _is_count(more):
        return sentence
    has = "has" if int(more) == 1 else "have"
    return f"{sentence.removesuffix('.')}; {int(more):,} more {has} died since."


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS
