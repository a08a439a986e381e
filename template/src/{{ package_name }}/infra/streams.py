"""Standard streams that carry every text, whatever encoding the terminal has."""

import codecs
import io
import os
import sys

ESCAPED = "escaped"
"""The name of the error handler that writes what an encoding lacks as JSON escapes it."""


def open_streams() -> None:
    """Make standard output and error escape what their encoding lacks, and open those that are closed.

    The escapes are JSON's: so JSON stays JSON, and a text shows `\\u2713` for a check mark.
    """
    _open_closed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # tests and notebooks put others there
            stream.reconfigure(errors=ESCAPED)


def _open_closed() -> None:
    """Give closed streams to the null device: or the next file or socket would get their number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    pairs = zip(units[::2], units[1::2], strict=True)
    return "".join(f"\\u{high:02x}{low:02x}" for high, low in pairs), error.end


codecs.register_error(ESCAPED, _escape)
