"""Text that any sink takes: the database, a log, a trace, a terminal, an HTTP answer.

PostgreSQL stores no NUL, and UTF-8 has no lone surrogate (half of a character beyond U+FFFF, which
JSON can carry and Python's decoders produce). One such character in an error message would make
the failure impossible to record.
"""

import re
from typing import Any, cast

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def storable(text: str) -> str:
    """Return the text with U+FFFD for each character that cannot be stored or encoded."""
    if text.isascii() and "\x00" not in text:
        return text  # as nearly all are
    return UNSTORABLE.sub(REPLACEMENT, text)


def storable_json(value: Any) -> Any:
    """Return a JSON value of the same shape whose strings and keys are storable."""
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, dict):
        items = cast("dict[Any, Any]", value).items()
        return {storable_json(key): storable_json(item) for key, item in items}
    if isinstance(value, list | tuple):
        return [storable_json(item) for item in cast("list[Any]", value)]
    return value


def describe(error: BaseException) -> str:
    """Return the error's class and message, storable, also if the message cannot be had."""
    name = type(error).__name__
    try:
        return storable(f"{name}: {error}")
    except Exception as broken:
        return f"{name} (its message raises {type(broken).__name__})"


def shorten(text: str, limit: int) -> str:
    """Return at most `limit` bytes of the text in UTF-8, storable, without half a character."""
    return storable(text).encode()[:limit].decode(errors="ignore")
