"""Spans of the service's own steps, made directly: Logfire's way formats a message for each.

They belong to traces. As lines of the log they appear from LOG_LEVEL=DEBUG on, like statements.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind
from opentelemetry.util.types import AttributeValue

STEPS = __name__
"""The name of the instrumentation that traces steps."""

TRACER = trace.get_tracer(STEPS)
QUIET = frozenset({"held", "filtered out", "handed back"})
"""What most decisions come to. These have no line in the log, and no span unless they are kept."""

STATEMENT = {"db.system": "postgresql", "db.operation": "INSERT", "db.sql.table": "events"}


_kept = False


def keep_quiet(keep: bool) -> None:
    """Choose whether each quiet decision has a span, as for a collector of traces."""
    global _kept
    _kept = keep


def quiet_is_kept() -> bool:
    """Return whether quiet decisions have spans."""
    return _kept


def is_traced() -> bool:
    """Return whether the current request or decision is traced."""
    return trace.get_current_span() is not trace.INVALID_SPAN


@contextmanager
def step(name: str, **attributes: AttributeValue) -> Generator[Span]:
    """Trace a step of the current request or decision; without one, trace nothing."""
    if not is_traced():
        yield trace.INVALID_SPAN
        return
    # The handler of an exception logs its traceback; here its name and text are enough.
    with TRACER.start_as_current_span(name, attributes=attributes, record_exception=False) as span:
        yield span


@contextmanager
def shared_insert(spans: Sequence[Span], events: int) -> Generator[None]:
    """Trace a statement that inserts events of several requests: in the first, linked from the others.

    The dedicated connection that runs it is not instrumented.
    """
    if not spans:
        yield
        return
    first, *others = spans
    attributes: dict[str, AttributeValue] = {**STATEMENT, "events": events}
    within = trace.set_span_in_context(first)
    with TRACER.start_as_current_span(
        "INSERT", within, SpanKind.CLIENT, attributes, record_exception=False
    ) as insert:
        context = insert.get_span_context()
        for span in others:
            if span.is_recording():  # its request may have been cancelled
                span.add_link(context)
        yield
