"""Configures telemetry: logs, traces and metrics of the service, by Logfire and OpenTelemetry."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import logfire
from logfire import LevelName
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import get_current_span

from .. import COMMAND
from ..config import Settings
from .telemetry.log_lines import SEVERITIES, JsonLineExporter, LogRecordExporter, TextLineExporter
from .telemetry.span_sanitizer import SpanSanitizer
from .telemetry.spans import record_details
from .text import shorten, without_passwords

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
INFO = SEVERITIES.index("INFO")
COLLECTORS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""The variables that name a collector of traces."""
REASONS = frozenset({"client", "error", "reason", "reasons", "refusal"})
"""Fields that scrubbing keeps, although words in them may look secret: texts of errors and names of clients."""
MAX_REFUSAL_BYTES = 500  # of the reason of a refusal, which quotes the request


def configure_observability(settings: Settings) -> None:
    """Configure Logfire for this process: always to the terminal, with a token also to its cloud.

    OpenTelemetry's standard variables, such as `OTEL_EXPORTER_OTLP_ENDPOINT`, name further receivers.
    """
    level = settings.log_level
    lines = JsonLineExporter(level) if settings.log_format == "json" else TextLineExporter(level)
    details = _has_details(settings)
    logfire.configure(
        token=settings.logfire_token.get_secret_value() if settings.logfire_token else None,
        send_to_logfire="if-token-present",
        service_name=os.environ.get("OTEL_SERVICE_NAME") or COMMAND,
        service_version=settings.version,
        environment=settings.environment,
        console=False,  # `lines` write one line a span, and none for statements
        min_level=LEVELS[level],  # lower levels are not even created
        scrubbing=logfire.ScrubbingOptions(callback=_kept),
        additional_span_processors=[
            SpanSanitizer(),  # before the exporters
            SimpleSpanProcessor(lines),
        ],
        inspect_arguments=False,
        distributed_tracing=True,  # continues a caller's trace
    )
    record_details(details)  # after the processors of an earlier configuration were shut down
    _instrument_libraries()
    # Libraries' logs go to Logfire, too. Under pytest, the root logger has a handler already and keeps it.
    logging.basicConfig(handlers=[logfire.LogfireLoggingHandler()], level=logging.WARNING)


def configure_for_commands() -> None:
    """Configure a command to show its warnings on the terminal, and no other logs."""
    logfire.configure(
        send_to_logfire=False,
        scrubbing=logfire.ScrubbingOptions(callback=_kept),
        additional_span_processors=[
            SpanSanitizer(),
            SimpleSpanProcessor(LogRecordExporter("WARNING")),
        ],
        console=False,
        min_level="warn",
        distributed_tracing=True,  # otherwise it warns about the first trace context
        metrics=False,  # an unavailable collector would delay the end of the command
        inspect_arguments=False,
    )


def _kept(found: logfire.ScrubMatch) -> object:
    """Return the text of a field in `REASONS` without passwords, which is kept; None redacts the value."""
    place, *keys = found.path[:2]
    is_reason = place in {"attributes", "message"} and REASONS.issuperset(map(str, keys))
    nested = [key for key in found.path[2:] if not isinstance(key, int)]  # ignores indexes of lists
    if not is_reason or nested or not isinstance(found.value, str):
        return None
    return without_passwords(found.value)


def _has_details(settings: Settings) -> bool:
    """Return whether steps and decisions without an action have spans.

    They do with a collector of traces; without one, only from LOG_LEVEL=DEBUG on.
    """
    collected = settings.logfire_token is not None or any(map(os.environ.get, COLLECTORS))
    return SEVERITIES.index(settings.log_level) < INFO + collected


@cache
def _instrument_libraries() -> None:
    logfire.instrument_pydantic_ai()
    logfire.instrument_asyncpg()
    logfire.instrument_httpx()
    logfire.instrument_system_metrics({"process.memory.usage": None})  # and the basic ones


def instrument_app(app: "FastAPI") -> None:
    """Trace and measure the requests of an application, without their bodies and headers."""
    from .telemetry.requests import RequestTelemetry

    app.add_middleware(RequestTelemetry)


def note_raised(error: Exception) -> None:
    """Record an endpoint's error on the request's span, although a handler answers it."""
    get_current_span().record_exception(error)


def note_refusal(reason: object) -> None:
    """Record on the request's span why it was refused, without a traceback, which would fill the log."""
    text = shorten(without_passwords(str(reason)), MAX_REFUSAL_BYTES)
    get_current_span().set_attribute("refusal", text)


def note_refused(refused: Sequence[Mapping[str, Any]]) -> None:
    """Record on the request's span which arguments were refused, without their values."""
    errors = [{key: each[key] for key in ("loc", "type", "msg")} for each in refused]
    get_current_span().set_attribute("fastapi.arguments.errors", json.dumps(errors, default=str))
