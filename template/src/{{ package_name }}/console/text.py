"""Shows text of others on a page: invisible characters become visible, and long values short."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple, cast

from pydantic_core import to_json

from ..core.events import ActionEvent, BaseEvent
from ..core.units import Seconds
from ..infra.store import ErasedEvent, Stored, UnreadableEvent
from ..infra.store.roundtrip import COMMON_FIELDS
from ..infra.store.stats import EXACT_COUNT_LIMIT
from ..infra.text import UNSEEN, shorten

if TYPE_CHECKING:
    from markupsafe import Markup

QUOTED = re.compile(r"`+([^`]+)`+")
HARMLESS = frozenset("\n\t")
MAX_SUMMARY = 160  # characters of an event in a list
MAX_JSON_BYTES = 20_000  # of one value on a page; the page of an event shows more
UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"))


class Pretty(NamedTuple):
    """A JSON value for a page."""

    text: str
    size: int
    """The bytes of the whole value."""
    cut: bool
    """Whether the text is only its beginning."""


def plain(text: str) -> str:
    """Return the text with a name such as ⟨U+202E⟩ for each invisible character, for attributes too."""
    return text if text.isprintable() else UNSEEN.sub(_name, text)


def plain_line(text: str) -> str:
    """Return a name as `in_line` shows it, without marks."""
    return text if text.isprintable() else UNSEEN.sub(lambda found: _code(found[0]), text)


def visible(text: object) -> "Markup":
    """Return the text as HTML, with a marked name for each invisible character."""
    from markupsafe import Markup, escape

    markup = str(escape(str(text)))
    return Markup(markup if markup.isprintable() else UNSEEN.sub(_marked_name, markup))  # noqa: S704 - it is escaped


def in_line(text: object) -> "Markup":
    """Return a name as HTML, with a marked name for each line break and tab, too."""
    from markupsafe import Markup, escape

    markup = str(escape(str(text)))
    return Markup(markup if markup.isprintable() else UNSEEN.sub(_marked, markup))  # noqa: S704 - it is escaped


def _marked(found: re.Match[str]) -> str:
    return f'<span class="ctl">{_code(found[0])}</span>'


def _code(character: str) -> str:
    return f"⟨U+{ord(character):04X}⟩"


def _name(found: re.Match[str]) -> str:
    character = found[0]
    return character if character in HARMLESS else _code(character)


def _marked_name(found: re.Match[str]) -> str:
    return found[0] if found[0] in HARMLESS else _marked(found)


def pretty(value: object, limit: int = MAX_JSON_BYTES) -> Pretty:
    """Return a value as indented JSON, cut to `limit` bytes."""
    encoded = to_json(value, indent=2, inf_nan_mode="constants", serialize_unknown=True)
    text = encoded[:limit].decode(errors="ignore")
    return Pretty(text, len(encoded), len(encoded) > limit)


def summary(event: Stored) -> str:
    """Return one line about an event: the fields of its own, shortened."""
    if isinstance(event, UnreadableEvent):
        return f"cannot be read: {shorten(event.unreadable, MAX_SUMMARY)}"
    if isinstance(event, ErasedEvent):
        return "erased"
    if isinstance(event, ActionEvent):
        output = event.output
        return _line(output.items()) if isinstance(output, dict) else brief(output)
    return _line(own_fields(event))


def own_fields(event: BaseEvent) -> Iterator[tuple[str, object]]:
    """Return the fields that only the type of an event has, with their values."""
    names = (name for name in type(event).model_fields if name not in COMMON_FIELDS)
    return ((name, getattr(event, name)) for name in names)


def brief(value: object, limit: int = MAX_SUMMARY) -> str:
    """Return one line of at most about `limit` characters about a value, reading no more of it than that."""
    match value:
        case str():
            text = value
        case dict():
            pairs = _pairs(cast("Mapping[object, object]", value).items())
            text = f"{{{_joined(pairs, limit)}}}"
        case list() | tuple():
            parts = (brief(each) for each in cast("list[object]", value))
            text = f"[{_joined(parts, limit)}]"
        case int() | float() | bool() | None:
            text = json.dumps(value)
        case _:
            text = str(value)
    return text if len(text) <= limit else f"{text[:limit]}…"


def _line(items: Iterable[tuple[object, object]]) -> str:
    return _joined(_pairs(items), MAX_SUMMARY, " · ")


def _pairs(items: Iterable[tuple[object, object]]) -> Iterator[str]:
    """Return names with their values, without those that are empty."""
    for name, value in items:
        if value not in (None, "", [], {}):
            yield f"{str(name)[:MAX_SUMMARY]}: {brief(value)}"


def _joined(parts: Iterable[str], limit: int, between: str = ", ") -> str:
    joined = ""
    for part in parts:
        joined = f"{joined}{between}{part}" if joined else part
        if len(joined) > limit:
            break
    return joined


def duration(seconds: Seconds | None) -> str:
    """Return a duration, rounded down to its largest unit: `120 ms`, `45 s`, `3 min`, `2 h`, `5 d`."""
    if seconds is None:
        return "–"  # noqa: RUF001 - a dash for an absent value
    for size, unit in UNITS:
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s" if seconds >= 1 else f"{int(1_000 * max(seconds, 0))} ms"


def interval(seconds: Seconds) -> str:
    """Return a setting in the largest unit that divides it: `90 s`, `2 h`, `1.5 s`."""
    for size, unit in UNITS:
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.15g} s"


def ago(at: datetime, now: datetime) -> str:
    """Return the time between two moments: `3 min ago`, `in 5 s`."""
    seconds = (now - at).total_seconds()
    if abs(seconds) < 1:
        return "now"
    return f"{duration(seconds)} ago" if seconds > 0 else f"in {duration(-seconds)}"


def utc(at: datetime) -> str:
    """Return a time in UTC to the second: `2026-11-27 22:43:45`."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def iso(at: datetime) -> str:
    """Return a time for the `datetime` of an element."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def size(value: int) -> str:
    """Return a number of bytes: `812 B`, `14 kB`, `3.2 MB`."""
    if value < 1_000:
        return f"{value} B"
    return f"{value / 1_000:.0f} kB" if value < 1_000_000 else f"{value / 1_000_000:.1f} MB"


def number(value: int) -> str:
    """Return a number with separators: `12,345`."""
    return f"{value:,}"


def dollars(value: Decimal | float) -> str:
    """Return an amount of US dollars, to a hundredth of a cent below one: `$0.0011`, `$0.05`, `$1,234.50`."""
    whole, _, decimals = f"{value:,.{4 if value < 1 else 2}f}".partition(".")
    return f"${whole}.{decimals[:2]}{decimals[2:].rstrip('0')}"


def about(value: int) -> str:
    """Return a number of deliveries, which may be an estimate: `9,120`, `more than 10,000`."""
    return number(value) if value <= EXACT_COUNT_LIMIT else f"more than {EXACT_COUNT_LIMIT:,}"


def prose(text: object) -> "Markup":
    """Return documentation as HTML, with what stands between backquotes as code."""
    from markupsafe import Markup

    return Markup(QUOTED.sub(r"<code>\1</code>", str(visible(text))))  # noqa: S704 - it is escaped


def count(value: int, noun: str, form: Callable[[int], str] = number) -> str:
    """Return a number with its noun, in the form of `number` or `about`: `1 event`, `12,345 events`."""
    return f"{form(value)} {noun}{'' if value == 1 else 's'}"
