"""Telemetry: one call configures it, and everything that the service does shows up in one trace."""

import json
import logging
import os
import re
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import logfire
from logfire import LevelName
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Span, Status, get_current_span
from opentelemetry.util.types import Attributes

from .. import COMMAND
from ..config import Settings
from .text import storable, storable_json, without_passwords

if TYPE_CHECKING:
    from fastapi import FastAPI

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
REASONS = frozenset({"error", "reason", "reasons"})
"""Fields of our log lines that hold the text of an error: kept, though it may name a password or a session."""
UNTRACED = "^[^/]*//[^/]*/(health|ready)$"  # asked every few seconds, and of no interest
LOGFIRES_SPAN = "logfire.span"
"""Where Logfire's patches of FastAPI find a request's span in its scope."""
CONTENTS = re.compile("messages|instructions|definitions|arguments|_response|result$")
"""Attributes that hold what events, models and tools said: for traces, which are looked at one by one."""


def configure_observability(settings: Settings) -> None:
    """Configure Logfire for this process: to the terminal always, to its cloud with a token.

    The standard variables of OpenTelemetry, such as `OTEL_EXPORTER_OTLP_ENDPOINT`, send it elsewhere, too.
    """
    as_json, level = settings.log_format == "json", LEVELS[settings.log_level]
    logfire.configure(
        token=settings.logfire_token.get_secret_value() if settings.logfire_token else None,
        send_to_logfire="if-token-present",
        service_name=os.environ.get("OTEL_SERVICE_NAME") or COMMAND,
        service_version=settings.version,
        environment=settings.environment,
        console=False if as_json else _console(level),
        min_level=level,  # what is below costs nothing, the traces of decisions too
        scrubbing=logfire.ScrubbingOptions(callback=_kept),
        additional_span_processors=[
            PlainText(),  # before all that export
            *([SimpleSpanProcessor(JsonLines(settings.log_level))] if as_json else []),
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
        console=_console("warn"),
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


def _console(level: LevelName) -> logfire.ConsoleOptions:
    """Write to standard error what is at least of this level, a line each."""
    return logfire.ConsoleOptions(
        min_log_level=level, span_style="simple", show_project_link=False, output=sys.stderr
    )


@cache
def _instrument_libraries() -> None:
    logfire.instrument_pydantic_ai()
    logfire.instrument_asyncpg()
    logfire.instrument_httpx()
    logfire.instrument_system_metrics({"process.memory.usage": None})  # and what is basic


def instrument_app(app: "FastAPI") -> None:
    """Trace the requests of an application, without what they carry."""
    logfire.instrument_fastapi(
        app,
        excluded_urls=UNTRACED,
        capture_headers=False,
        server_request_hook=_without_arguments,
        exclude_spans=["receive", "send"],  # not even made, though Logfire would drop them
    )


def _without_arguments(_: Span, scope: dict[str, Any]) -> None:
    """Keep Logfire from noting when arguments and endpoint began and ended: a tenth of a request.

    What arguments were is not for traces: clients sent it. `note_refused` adds what was wrong.
    """
    scope.pop(LOGFIRES_SPAN, None)


def note_raised(error: Exception) -> None:
    """Add to the request's span what its endpoint raised, though a handler answers it."""
    get_current_span().record_exception(error)


def note_refused(refused: Sequence[Mapping[str, Any]]) -> None:
    """Add to the request's span which arguments were refused, without their values."""
    errors = [{key: each[key] for key in ("loc", "type", "msg")} for each in refused]
    get_current_span().set_attribute("fastapi.arguments.errors", json.dumps(errors, default=str))


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
    """Tell, in a tenth of the time that replacing takes, whether there may be something to replace."""
    texts = [str(value) for value in (attributes or {}).values() if not isinstance(value, int)]
    return any(
        not text.isascii() or ("://" in text and ("@" in text or "password=" in text))
        for text in texts
    )


def _plain(attributes: Attributes) -> Attributes:
    texts = storable_json(dict(attributes or {}))
    return {key: _plain_text(value) for key, value in texts.items()}


def _plain_text[T](value: T) -> T | str:
    return without_passwords(storable(value)) if isinstance(value, str) else value


class JsonLines(SpanExporter):
    """Writes each log record and span, from a level on, as one JSON object a line to standard error."""

    def __init__(self, level: str) -> None:
        self._levels = SEVERITIES[SEVERITIES.index(level) :]

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Write finished spans, statements aside: those are for traces."""
        for span in spans:
            if span.instrumentation_scope and SQL not in span.instrumentation_scope.name:
                line = _line(span)
                if line["level"] in self._levels:
                    print(json.dumps(line, default=str), file=sys.stderr, flush=True)
        return SpanExportResult.SUCCESS


def _line(span: ReadableSpan) -> dict[str, Any]:
    attributes = dict(span.attributes or {})
    context = span.get_span_context()
    return {
        **{key: value for key, value in attributes.items() if _is_short(key)},
        **_exception(span),
        "time": (span.end_time or span.start_time or 0) / 1e9,
        "level": _severity(attributes.get("logfire.level_num")),
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
