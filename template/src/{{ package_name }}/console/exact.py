"""Values that a form gives back exactly.

A browser changes what it sends: each line break becomes CRLF, and an input of one line drops them. So a value that must
come back as it is travels percent-encoded, in a field whose name begins with `PREFIX`.
"""

import re
from collections.abc import Mapping
from typing import Annotated
from urllib.parse import quote, unquote

from fastapi import Depends, HTTPException, Request

PREFIX = "exact."
SAFE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")
ENCODED = re.compile("(?:[ -$&-~]|%[0-9A-F]{2})*")
LINE_BREAKS = re.compile(r"\r\n?|\n")
LOCAL_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d{1,3})?)?)?")


def encode(value: object) -> str:
    """Return a value as printable ASCII without line breaks."""
    return quote(str(value), safe=SAFE)


def decode(name: str, text: str) -> str:
    """Return the value that was encoded.

    Raises:
        HTTPException: the text is not an encoded value.
    """
    try:
        if ENCODED.fullmatch(text):
            return unquote(text, errors="strict")
    except UnicodeDecodeError:
        pass
    raise HTTPException(422, f"{name[:50]}: it was changed on its way: reload the page.")


def decoded(fields: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Return the fields of a form by their own names, each of the encoded ones in place of a plain one.

    Raises:
        HTTPException: the value of one is not encoded as it must be.
    """
    exact = {
        name.removeprefix(PREFIX): [decode(name, text) for text in texts]
        for name, texts in fields.items()
        if name.startswith(PREFIX)
    }
    plain = {name: texts for name, texts in fields.items() if not name.startswith(PREFIX)}
    return {**plain, **exact}


def sent_by_address(request: Request) -> dict[str, str]:
    """Return the encoded values in the query of an address, as a form that is sent by GET has them.

    Raises:
        HTTPException: one is not encoded as it must be.
    """
    return {
        name.removeprefix(PREFIX): decode(name, text)
        for name, text in request.query_params.items()
        if name.startswith(PREFIX)
    }


Exact = Annotated[dict[str, str], Depends(sent_by_address)]


def fits_line(value: str) -> bool:
    """Return whether an input of one line keeps a text as it is."""
    return LINE_BREAKS.search(value) is None


def fits_time(value: str) -> bool:
    """Return whether an input of a local time keeps a text as it is."""
    return LOCAL_TIME.fullmatch(value) is not None


def as_lines(value: str) -> str:
    """Return a text with the line breaks that a form of several lines stands for."""
    return LINE_BREAKS.sub("\n", value)
