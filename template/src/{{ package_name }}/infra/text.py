"""Makes text safe for its destination, by one function for each.

| destination | function |
|---|---|
| the database | `storable`, `storable_json`, `jsonable` |
| a line of a terminal, a pipe or a log, also one of JSON | `one_line` |
| lines below a line of a log, such as a traceback | `indented` |
| the value of a response header | `header_value` |
| the reason of a WebSocket's close frame | `close_reason` |
| an error's message, wherever it goes | `describe` |
| an address, or a text that may quote one | `address_without_passwords`, `without_passwords` |

PostgreSQL cannot store NUL. UTF-8 cannot encode a lone surrogate: half of a character beyond U+FFFF, which JSON
may contain and Python's decoders produce. With such a character in its message, an error could not be recorded.
"""

import json
import re
from typing import Any, cast
from urllib.parse import unquote_plus

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
MAX_MESSAGE_LENGTH = 10_000  # characters; logging a megabyte blocks the event loop for a second
MAX_CLOSE_REASON_BYTES = 123  # of a close frame's reason (RFC 6455)
# The password of `user:password@host` in a URL.
PASSWORDS = re.compile(r"(://[^\s:/?#@]*:)[^\s/]*(?=@)")
# A name and its value in the query of a URL, or in ` ? name='value' & ...`, as traces show it.
PARAMETERS = re.compile(r"""([?&;]\s?)([^\s?&;=#'"]+)=('(?:[^'\\]|\\.)*'?|"[^"]*"?|[^\s&;#'"]+)""")
SECRET = re.compile(
    "(key|token|secret|pass|passwd|password|passphrase|pwd|auth|authorization|signature|sig"
    "|credentials?|session|sessionid|jwt)$"
)
"""The ends of parameters' names, in lower case without punctuation, whose values are hidden."""
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
# Control, line-breaking, bidirectional and zero-width characters: C0, DEL, C1, all other invisible format
# characters, and lone surrogates.
UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff"
    "\ufeff\ufff9-\ufffb\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e007f]"
)
SHORT_ESCAPES = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def storable(text: str) -> str:
    """Return the text with U+FFFD for each character that cannot be stored or encoded."""
    if text.isascii() and "\x00" not in text:
        return text  # the usual case
    return UNSTORABLE.sub(REPLACEMENT, text)


def one_line(text: str) -> str:
    """Return the text as one visible line, without control sequences.

    Control, line-breaking, bidirectional and zero-width characters become JSON escapes. So a JSON document in one
    line stays the same document.
    """
    return text if text.isprintable() else UNSEEN.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    return SHORT_ESCAPES.get(found[0]) or json_escapes(found[0])


def json_escapes(text: str) -> str:
    """Return the JSON escapes of all characters: two for a character beyond U+FFFF."""
    units = text.encode("utf-16-be", "surrogatepass")
    pairs = zip(units[::2], units[1::2], strict=True)
    return "".join(f"\\u{high:02x}{low:02x}" for high, low in pairs)


def indented(text: str) -> str:
    """Return the lines indented, for a place below a log line, so that none looks like a log line."""
    return "\n".join(f"    {one_line(line)}" for line in text.rstrip("\n").split("\n"))


def json_line(value: object) -> str:
    """Return the value as one line of JSON; values without a JSON form become text."""
    return one_line(json.dumps(value, default=str))


def header_value(text: str) -> str:
    """Return the text for a response header: one line of Latin-1."""
    return one_line(text).encode("latin-1", "backslashreplace").decode("latin-1")


def close_reason(text: str) -> str:
    """Return the text for the reason of a WebSocket's close frame: one line of at most 123 bytes."""
    return shorten(one_line(text), MAX_CLOSE_REASON_BYTES)


def without_passwords(text: str) -> str:
    """Return the text with `***` for the secrets in its URLs: passwords, and keys in queries."""
    if "://" in text:
        text = PASSWORDS.sub(r"\1***", text)
    return PARAMETERS.sub(_without_secret, text) if "?" in text else text


def _without_secret(found: re.Match[str]) -> str:
    return f"{found[1]}{found[2]}=***" if _is_secret(found[2]) else found[0]


def address_without_passwords(address: str) -> str:
    """Return a URL without its secrets, even if it was decoded and their values contain spaces."""
    base, mark, query = address.partition("?")
    return without_passwords(base) + mark + query_without_passwords(query)


def query_without_passwords(query: str) -> str:
    """Return the query of a URL without secrets; a part without `=` belongs to the value before it."""
    parts, hidden = list[str](), False
    for part in query.split("&"):
        name, equals, _ = part.partition("=")
        if equals:
            hidden = _is_secret(name)
            parts.append(f"{name}=***" if hidden else part)
        elif not hidden:
            parts.append(part)
    return "&".join(parts)


def _is_secret(name: str) -> bool:
    return SECRET.search(re.sub("[^a-z]", "", unquote_plus(name).lower())) is not None


def storable_json(value: Any) -> Any:
    """Return a copy of a JSON value whose strings and keys are storable."""
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, dict):
        items = cast("dict[Any, Any]", value).items()
        return {storable_json(key): storable_json(item) for key, item in items}
    if isinstance(value, list | tuple):
        return [storable_json(item) for item in cast("list[Any]", value)]
    return value


def jsonable(value: object) -> Any:
    """Return the JSON form of a value, with storable text; models and dates are converted.

    Raises:
        ValueError: the value has no JSON form.
    """
    try:
        return storable_json(to_jsonable_python(value))
    except UnicodeEncodeError:  # a lone surrogate in a key, which pydantic-core refuses
        plain = value.model_dump() if isinstance(value, BaseModel) else value
        return to_jsonable_python(storable_json(plain))


def describe(error: BaseException) -> str:
    """Return the error's class and message: storable, bounded, and without passwords of URLs.

    It never raises, even if the error's own `__str__` does.
    """
    name = type(error).__name__
    try:
        text = without_passwords(storable(f"{name}: {error}"))
        return (
            text
            if len(text) <= MAX_MESSAGE_LENGTH
            else f"{text[:MAX_MESSAGE_LENGTH]} ... ({len(text)} characters)"
        )
    except Exception as broken:
        return f"{name} (its message raises {type(broken).__name__})"


def as_template(text: str) -> str:
    """Return the text as a log message template without fields, because Logfire cuts the values of fields."""
    return text.replace("{", "{" * 2).replace("}", "}" * 2)


def shorten(text: str, limit: int) -> str:
    """Return at most `limit` bytes of the text in UTF-8, storable, cut between characters."""
    return storable(text).encode()[:limit].decode(errors="ignore")
