"""Spans of the service's own steps, created without Logfire, which formats a message for each.

The log has them, like statements, only with LOG_LEVEL=DEBUG.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind
from opentelemetry.util.types import AttributeValue

STEPS = __name__
"""The name of the instrumentation of steps."""

TRACER = trace.get_tracer(STEPS)
MESSAGE = "logfire.msg"
"""The attribute with the message of a span or log record."""
QUIET_OUTCOMES = frozenset({"held", "filtered out", "released"})
"""The outcomes of most decisions. They have no line in the log, and a span only if details are recorded."""

STATEMENT = {"db.system": "postgresql", "db.operation": "INSERT", "db.sql.table": "events"}


_recording_details = True


def record_details(keep: bool) -> None:
    """Choose whether steps and quiet decisions have spans, which only a trace collector needs.

    Two of the three spans of a request are steps.
    """
    global _recording_details
    _recording_details = keep


def records_details() -> bool:
    """Return whether steps and quiet decisions have spans."""
    return _recording_details


def is_traced() -> bool:
    """Return whether the current request or decision is traced."""
    return trace.get_current_span() is not trace.INVALID_SPAN


@contextmanager
def step(name: str, **attributes: AttributeValue) -> Generator[Span]:
    """Trace a step of the current request or decision; do nothing outside of one."""
    if not _recording_details or not is_traced():
        yield trace.INVALID_SPAN
        return
    # The handler of an exception records its traceback.
    with TRACER.start_as_current_span(name, attributes=attributes, record_exception=False) as span:
        yield span


@contextmanager
def group_commit_insert(spans: Sequence[Span], events: int) -> Generator[None]:
    """Trace an insert that several requests share: as a child of the first, with links from the others.

    The dedicated connection that runs it is not instrumented.
    """
    if not spans:
        yield
        return
    first, *others = spans
    attributes: dict[str, AttributeValue] = {**STATEMENT, "events": events}
    parent = trace.set_span_in_context(first)
    with TRACER.start_as_current_span(
        "INSERT", parent, SpanKind.CLIENT, attributes, record_exception=False
    ) as insert:
        context = insert.get_span_context()
        for span in others:
            if span.is_recording():  # its request may have been cancelled
                span.add_link(context)
        yield
