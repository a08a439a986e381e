"""Write log records and spans to standard error, as text or as JSON."""

import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from rich.console import Console
from rich.text import Text

from ..text import indented, json_line, one_line
from .spans import MESSAGE, QUIET_OUTCOMES, STEPS

SQL_SCOPE = "asyncpg"  # part of the name of the instrumentation of statements
SEVERITIES = ("TRACE", "DEBUG", "INFO", "WARNING", "ERROR", "FATAL")
STYLES = {"WARNING": "yellow", "ERROR": "red", "FATAL": "red"}
"""Colours of levels on a terminal."""
CONTENT_ATTRIBUTES = re.compile("messages|instructions|definitions|arguments|_response|result$")
"""Matches attributes with the content of events, models and tools, which only traces contain."""


class LineExporter(SpanExporter, ABC):
    """Writes each log record and ended span of at least a level as a line to standard error.

    Statements, steps and quiet decisions have the level DEBUG.
    """

    def __init__(self, level: str) -> None:
        self._levels = SEVERITIES[SEVERITIES.index(level) :]

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Write the spans of the chosen levels."""
        for span in spans:
            if (level := _level(span)) in self._levels:
                self.write(span, level)
        return SpanExportResult.SUCCESS

    @abstractmethod
    def write(self, span: ReadableSpan, level: str) -> None:
        """Write one line."""


class JsonLineExporter(LineExporter):
    """Writes one JSON object per line."""

    def write(self, span: ReadableSpan, level: str) -> None:
        """Write a span with its attributes, except content."""
        print(json_line(_line(span, level)), file=sys.stderr, flush=True)


class TextLineExporter(LineExporter):
    """Writes text, with colours on a terminal."""

    def __init__(self, level: str) -> None:
        super().__init__(level)
        terminal = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        self._terminal = terminal if terminal.is_terminal else None

    def write(self, span: ReadableSpan, level: str) -> None:
        """Write the time of the end, the message, the duration of a span, and the traceback."""
        begun, ended = span.start_time or 0, span.end_time or 0
        at = f"{datetime.fromtimestamp(ended / 1e9):%H:%M:%S.%f}"[:-3]
        message = one_line(str((span.attributes or {}).get(MESSAGE, span.name)))
        if not _is_log(span):
            message += f" ({(ended - begun) / 1e6:.0f} ms)"
        if trace := _exception(span).get("exception.stacktrace"):
            message += f"\n{indented(str(trace))}"
        if self._terminal is None:
            print(at, message, file=sys.stderr, flush=True)
        else:
            self._terminal.print(
                Text.assemble((at, "green"), " ", (message, STYLES.get(level, "")))
            )


class LogRecordExporter(TextLineExporter):
    """Writes log records but no spans: a command reports its failure itself."""

    def write(self, span: ReadableSpan, level: str) -> None:
        """Write a log record."""
        if _is_log(span):
            super().write(span, level)


def _level(span: ReadableSpan) -> str:
    attributes = span.attributes or {}
    level = _severity(attributes.get("logfire.level_num"))
    by = span.instrumentation_scope.name if span.instrumentation_scope else ""
    if SQL_SCOPE in by or by == STEPS or attributes.get("outcome") in QUIET_OUTCOMES:
        return min("DEBUG", level, key=SEVERITIES.index)
    return level


def _is_log(span: ReadableSpan) -> bool:
    return (span.attributes or {}).get("logfire.span_type") == "log"


def _line(span: ReadableSpan, level: str) -> dict[str, Any]:
    attributes = dict(span.attributes or {})
    context = span.get_span_context()
    return {
        **{key: value for key, value in attributes.items() if _is_short(key)},
        **_exception(span),
        "time": (span.end_time or span.start_time or 0) / 1e9,
        "level": level,
        "message": attributes.get(MESSAGE, span.name),
        "name": span.name,
        "seconds": ((span.end_time or 0) - (span.start_time or 0)) / 1e9,
        "trace_id": format(context.trace_id, "032x") if context else None,
        "span_id": format(context.span_id, "016x") if context else None,
    }


def _is_short(key: str) -> bool:
    return not key.startswith("logfire.") and not CONTENT_ATTRIBUTES.search(key)


def _exception(span: ReadableSpan) -> dict[str, Any]:
    """Return the type, message and traceback of the last exception; empty if there is none."""
    found = [event for event in span.events if event.name == "exception"]
    return dict(found[-1].attributes or {}) if found else {}


def _severity(number: object) -> str:
    """Return the name of an OpenTelemetry severity; each name has four numbers."""
    return SEVERITIES[(number - 1) // 4] if isinstance(number, int) else "INFO"
