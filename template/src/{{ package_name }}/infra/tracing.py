"""One trace from whoever publishes an event, through the decision on it, to whoever is told.

An event carries the W3C trace context of its publisher in its meta, so the trace goes on in whatever
process takes it. A retry begins a trace of its own, linked to the first, or traces would never end.
"""

from collections.abc import Generator, Iterable
from contextlib import AbstractContextManager, contextmanager

import logfire
from logfire.propagate import attach_context
from opentelemetry import trace
from opentelemetry.trace import SpanContext
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ..core.events import Event
from .store import Token

TRACEPARENT = "traceparent"


def continuing(event: Event) -> AbstractContextManager[None]:
    """Go on with the event's trace for the block, or begin one if it has none."""
    known = event.meta.traceparent
    return attach_context({TRACEPARENT: known} if known else {})


def deciding(event: Event, token: Token) -> AbstractContextManager[object]:
    """Trace the decision on one event."""
    retried = token.attempt > 1 or token.alone
    span = logfire.span(
        "agent.decide",
        _level="info",
        _links=links([event]) if retried else (),
        event_id=event.id,
        event_type=event.type,
        scope=event.scope,
        attempt=token.attempt,
    )
    if retried or event.meta.traceparent is None:
        return span  # nothing is under way in a loop, so this is the root of a trace
    return _within(continuing(event), span)


@contextmanager
def _within(
    context: AbstractContextManager[None], span: AbstractContextManager[object]
) -> Generator[None]:
    with context, span:
        yield


def deciding_together(events: Iterable[Event], scope: str) -> AbstractContextManager[object]:
    """Trace one decision on several events: a trace of its own, linked to each of theirs."""
    return logfire.span("agent.decide", _level="info", _links=links(events), scope=scope)


def note(**attributes: str | int) -> None:
    """Add to the span that is open, if it is recorded."""
    trace.get_current_span().set_attributes(attributes)


def links(events: Iterable[Event]) -> list[tuple[SpanContext, None]]:
    """Return links to the spans that published these events."""
    known = {event.meta.traceparent for event in events if event.meta.traceparent}
    return [(context, None) for context in map(_span_context, sorted(known)) if context.is_valid]


def _span_context(traceparent: str) -> SpanContext:
    carried = TraceContextTextMapPropagator().extract({TRACEPARENT: traceparent})
    return trace.get_current_span(carried).get_span_context()
