"""Configure the standard streams to write any text in any encoding, and print errors as lines."""

import codecs
import io
import logging
import os
import sys

from ..text import json_escapes, one_line, without_passwords

JSON_ESCAPE = "escaped"
"""The name of the codec error handler that writes unencodable characters as JSON escapes."""


def configure_streams() -> None:
    """Escape characters that the encoding of standard output and error lacks; open closed streams.

    The escapes are JSON's, so JSON stays valid, and text shows `\\u2713` for a check mark.
    """
    _open_closed_streams()
    logging.lastResort = StderrHandler(logging.WARNING)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # tests and notebooks replace the streams
            stream.reconfigure(errors=JSON_ESCAPE)


def print_error(sentence: str) -> None:
    """Print a sentence to standard error as one line without secrets."""
    print(one_line(without_passwords(sentence)), file=sys.stderr, flush=True)


class StderrHandler(logging.Handler):
    """Prints log records of libraries while telemetry is not configured, as in commands."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record as one line."""
        print_error(self.format(record))


def _open_closed_streams() -> None:
    """Open closed streams on the null device: otherwise the next file or socket gets their number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json_escapes(error.object[error.start : error.end]), error.end


codecs.register_error(JSON_ESCAPE, _escape)
