"""Telemetry: one call configures it, and everything that the service does shows up in one trace."""

import json
import logging
import os
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Any

import logfire
from fastapi import FastAPI, Request, WebSocket
from logfire import LevelName
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Status
from opentelemetry.util.types import Attributes
from rich.console import Console
from rich.text import Text

from .. import COMMAND
from ..config import Settings
from .spans import QUIET, STEPS, keep_quiet
from .text import storable, storable_json, without_passwords

LEVELS: dict[str, LevelName] = {
    "TRACE": "trace",
    "DEBUG": "debug",
    "INFO": "info",
    "WARNING": "warn",
    "ERROR": "error",
    "FATAL": "fatal",
}
SQL = "asyncpg"  # in the name of who traces statements
SEVERITIES = ("TRACE", "DEBUG", "INFO", "WARNING", "ERROR", "FATAL")
INFO = SEVERITIES.index("INFO")
COLLECTORS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""The variables that name a collector of traces."""
STYLES = {"WARNING": "yellow", "ERROR": "red", "FATAL": "red"}
"""Colours of lines on a terminal."""
REASONS = frozenset({"error", "reason", "reasons"})
"""Fields of our log lines that hold the text of an error: kept, though it may name a password or a session."""
UNTRACED = "^[^/]*//[^/]*/(health|ready)$"  # asked every few seconds, and of no interest
CONTENTS = re.compile("messages|instructions|definitions|arguments|_response|result$")
"""Attributes that hold what events, models and tools said: for traces, which are looked at one by one."""


def configure_observability(settings: Settings) -> None:
    """Configure Logfire for this process: to the terminal always, to its cloud with a token.

    The standard variables of OpenTelemetry, such as `OTEL_EXPORTER_OTLP_ENDPOINT`, send it elsewhere, too.
    """
    level = settings.log_level
    lines = JsonLines(level) if settings.log_format == "json" else TextLines(level)
    keep_quiet(_wants_quiet(settings))
    logfire.configure(
        token=settings.logfire_token.get_secret_value() if settings.logfire_token else None,
        send_to_logfire="if-token-present",
        service_name=os.environ.get("OTEL_SERVICE_NAME") or COMMAND,
        service_version=settings.version,
        environment=settings.environment,
        console=False,  # `lines` are written once a span, and leave statements to traces
        min_level=LEVELS[level],  # what is below costs nothing
        scrubbing=logfire.ScrubbingOptions(callback=_kept),
        additional_span_processors=[
            PlainText(),  # before all that export
            SimpleSpanProcessor(lines),
        ],
        inspect_arguments=False,
        distributed_tracing=True,  # a caller's trace goes on here
    )
    _instrument_libraries()
    # What libraries log goes the same way; pytest has a handler there already, and keeps it.
    logging.basicConfig(handlers=[logfire.LogfireLoggingHandler()], level=logging.WARNING)


def configure_for_commands() -> None:
    """Show a command's warnings on the terminal, and nothing else: people read what it prints."""
    logfire.configure(
        send_to_logfire=False,
        scrubbing=logfire.ScrubbingOptions(callback=_kept),
        additional_span_processors=[PlainText()],
        console=logfire.ConsoleOptions(
            min_log_level="warn",
            span_style="simple",
            show_project_link=False,
            output=sys.stderr,
        ),
        min_level="warn",
        metrics=False,  # a collector that is away would keep the command waiting at its end
        inspect_arguments=False,
    )


def _kept(found: logfire.ScrubMatch) -> object:
    """Return the text of a reason, which is then kept as it is; None for all else, which is redacted."""
    place, *keys = found.path[:2]
    ours = place in {"attributes", "message"} and REASONS.issuperset(map(str, keys))
    within = [key for key in found.path[2:] if not isinstance(key, int)]  # the element of a list
    if not ours or within or not isinstance(found.value, str):
        return None
    return without_passwords(found.value)


def _wants_quiet(settings: Settings) -> bool:
    """Return whether decisions that hold their event or filter it out have a span each.

    Without a collector, only the log would have them: from LOG_LEVEL=DEBUG on.
    """
    collected = settings.logfire_token is not None or any(map(os.environ.get, COLLECTORS))
    return SEVERITIES.index(settings.log_level) < INFO + collected


@cache
def _instrument_libraries() -> None:
    logfire.instrument_pydantic_ai()
    logfire.instrument_asyncpg()
    logfire.instrument_httpx()
    logfire.instrument_system_metrics({"process.memory.usage": None})  # and what is basic


def instrument_app(app: FastAPI) -> None:
    """Trace the requests of an application, without what they carry."""
    logfire.instrument_fastapi(
        app, excluded_urls=UNTRACED, capture_headers=False, request_attributes_mapper=_refused
    )


def _refused(_: Request | WebSocket, found: dict[str, Any]) -> dict[str, Any] | None:
    """Keep of a request's arguments what was wrong: the rest has settings, and what clients sent."""
    errors = [{key: error[key] for key in ("loc", "type", "msg")} for error in found["errors"]]
    return {"errors": errors} if errors else None


class PlainText(SpanProcessor):
    """Makes the text of a finished span encodable for every exporter after it, without passwords of addresses.

    The exporters' protocol refuses a lone surrogate, and with it every span of the same batch.
    """

    def on_end(self, span: ReadableSpan) -> None:
        """Replace what must not be exported in names, attributes, exceptions and the status."""
        # The SDK has no public way to change a finished span, which all exporters share.
        parts = vars(span)
        parts["_name"] = storable(span.name)
        if _suspicious(span.attributes):
            parts["_attributes"] = _plain(span.attributes)
        if any(_suspicious(event.attributes) for event in span.events):
            parts["_events"] = [
                Event(event.name, _plain(event.attributes), event.timestamp)
                for event in span.events
            ]
        if said := span.status.description:
            parts["_status"] = Status(span.status.status_code, _plain_text(said))


def _suspicious(attributes: Attributes) -> bool:
    texts = map(str, (attributes or {}).values())
    return any(not text.isascii() or "://" in text for text in texts)


def _plain(attributes: Attributes) -> Attributes:
    texts = storable_json(dict(attributes or {}))
    return {key: _plain_text(value) for key, value in texts.items()}


def _plain_text[T](value: T) -> T | str:
    return without_passwords(storable(value)) if isinstance(value, str) else value


class Lines(SpanExporter, ABC):
    """Writes each log record and span, from a level on, as a line to standard error when it has ended.

    Statements, steps and quiet decisions count as DEBUG: they are for traces.
    """

    def __init__(self, level: str) -> None:
        self._levels = SEVERITIES[SEVERITIES.index(level) :]

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Write what is of a level that is asked for."""
        for span in spans:
            if (level := _level(span)) in self._levels:
                self.write(span, level)
        return SpanExportResult.SUCCESS

    @abstractmethod
    def write(self, span: ReadableSpan, level: str) -> None:
        """Write one line."""


class JsonLines(Lines):
    """Writes one JSON object a line, for programs."""

    def write(self, span: ReadableSpan, level: str) -> None:
        """Write attributes and all, but what messages said."""
        print(json.dumps(_line(span, level), default=str), file=sys.stderr, flush=True)


class TextLines(Lines):
    """Writes text, for people: in colours on a terminal."""

    def __init__(self, level: str) -> None:
        super().__init__(level)
        terminal = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        self._terminal = terminal if terminal.is_terminal else None

    def write(self, span: ReadableSpan, level: str) -> None:
        """Write the time of the end and the message, how long a span took, and what was raised."""
        begun, ended = span.start_time or 0, span.end_time or 0
        at = f"{datetime.fromtimestamp(ended / 1e9):%H:%M:%S.%f}"[:-3]
        message = str((span.attributes or {}).get("logfire.msg", span.name))
        if not _is_log(span):
            message += f" ({(ended - begun) / 1e6:.0f} ms)"
        if trace := _exception(span).get("exception.stacktrace"):
            message += f"\n{trace}"
        if self._terminal is None:
            print(at, message, file=sys.stderr, flush=True)
        else:
            self._terminal.print(
                Text.assemble((at, "green"), " ", (message, STYLES.get(level, "")))
            )


def _level(span: ReadableSpan) -> str:
    attributes = span.attributes or {}
    level = _severity(attributes.get("logfire.level_num"))
    by = span.instrumentation_scope.name if span.instrumentation_scope else ""
    if SQL in by or by == STEPS or attributes.get("outcome") in QUIET:
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
        "message": attributes.get("logfire.msg", span.name),
        "name": span.name,
        "seconds": ((span.end_time or 0) - (span.start_time or 0)) / 1e9,
        "trace_id": format(context.trace_id, "032x") if context else None,
        "span_id": format(context.span_id, "016x") if context else None,
    }


def _is_short(key: str) -> bool:
    return not key.startswith("logfire.") and not CONTENTS.search(key)


def _exception(span: ReadableSpan) -> dict[str, Any]:
    """Return type, message and traceback of what went wrong, if something did."""
    found = [event for event in span.events if event.name == "exception"]
    return dict(found[-1].attributes or {}) if found else {}


def _severity(number: object) -> str:
    """Name a severity of OpenTelemetry, which has four numbers for each name."""
    return SEVERITIES[(number - 1) // 4] if isinstance(number, int) else "INFO"
