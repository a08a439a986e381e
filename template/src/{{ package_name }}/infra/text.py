"""Text that any sink takes: the database, a log, a trace, a terminal, an HTTP answer.

PostgreSQL stores no NUL, and UTF-8 has no lone surrogate (half of a character beyond U+FFFF, which
JSON can carry and Python's decoders produce). One such character in an error message would make
the failure impossible to record.
"""

import re
from typing import Any, cast

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
MESSAGE_MOST = 10_000  # characters: to log a megabyte takes a second, in which nothing else happens
# In addresses: what follows the first colon of `user:password@host`, and `password=` in a query.
PASSWORDS = re.compile(r"(://[^\s:/?#@]*:)[^\s/]*(?=@)|([?&]password=)[^\s&#'\"]+")
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def storable(text: str) -> str:
    """Return the text with U+FFFD for each character that cannot be stored or encoded."""
    if text.isascii() and "\x00" not in text:
        return text  # as nearly all are
    return UNSTORABLE.sub(REPLACEMENT, text)


def without_passwords(text: str) -> str:
    """Return the text of an error or a log with `***` for the passwords of addresses in it."""
    if "://" not in text:
        return text
    return PASSWORDS.sub(lambda found: f"{found[1] or found[2]}***", text)


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


def jsonable(value: object) -> Any:
    """Return what JSON makes of a value, models and dates included, with storable text.

    Raises:
        ValueError: JSON has nothing for it.
    """
    try:
        return storable_json(to_jsonable_python(value))
    except UnicodeEncodeError:  # half a character in a key, where the library is strict
        plain = value.model_dump() if isinstance(value, BaseModel) else value
        return to_jsonable_python(storable_json(plain))


def describe(error: BaseException) -> str:
    """Return the error's class and message for any sink, also if the message cannot be had.

    It is storable and not endless, and has no password of an address.
    """
    name = type(error).__name__
    try:
        said = without_passwords(storable(f"{name}: {error}"))
        return (
            said
            if len(said) <= MESSAGE_MOST
            else f"{said[:MESSAGE_MOST]} ... ({len(said)} characters)"
        )
    except Exception as broken:
        return f"{name} (its message raises {type(broken).__name__})"


def as_template(text: str) -> str:
    """Return the text as a log's message template without fields, since the values of fields are cut."""
    return text.replace("{", "{" * 2).replace("}", "}" * 2)


def shorten(text: str, limit: int) -> str:
    """Return at most `limit` bytes of the text in UTF-8, storable, without half a character."""
    return storable(text).encode()[:limit].decode(errors="ignore")
