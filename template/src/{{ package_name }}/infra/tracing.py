"""One trace from the request that publishes an event, through its decision, to the push of the action.

An event carries the W3C trace context of its publisher in its meta, so the trace goes on in whatever
process takes it. A retry begins a trace of its own, linked to the first, or traces would never end.

Most decisions hold their event or filter it out. So the span of a decision is started when something
asks for it: a span within it, a log line, an event that it publishes, or an action at its end.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self

from logfire.propagate import attach_context
from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from ..core.events import Event
from ..core.types import Scope
from .spans import QUIET, quiet_is_kept
from .spans import TRACER as STEPS
from .store import Token

TRACEPARENT = "traceparent"
DECISION = context.create_key("decision")
TRACER = trace.get_tracer(__name__)
INFO = 9  # OpenTelemetry's number of the level, as Logfire stores it


def continuing(event: Event) -> AbstractContextManager[None]:
    """Go on with the event's trace for the block, or begin one if it has none."""
    known = event.meta.traceparent
    return attach_context({TRACEPARENT: known} if known else {})


def deciding(event: Event, token: Token) -> "Decision":
    """Trace the decision on one event, if it comes to more than holding it or filtering it out."""
    return Decision([event], event.scope, token)


def deciding_together(events: Iterable[Event], scope: Scope) -> "Decision":
    """Trace one decision on several events: within their trace, or linked to each of theirs."""
    return Decision(list(events), scope)


def note(**attributes: str | int) -> None:
    """Add attributes to the span of the current decision; without one, to the current span."""
    if (decision := current_decision()) is not None:
        decision.notes.update(attributes)
    else:
        trace.get_current_span().set_attributes(attributes)


def current_decision() -> "Decision | None":
    """Return the decision whose block this is called in."""
    found = context.get_value(DECISION)
    return found if isinstance(found, Decision) else None


class Decision:
    """The block of `deciding`: its span, and those of the filter and of the trigger within it."""

    def __init__(self, events: Sequence[Event], scope: Scope, token: Token | None = None) -> None:
        self._events = events
        self._scope = scope
        self._token = token
        self.notes: dict[str, str | int] = {}
        """Attributes that the span gets at its end."""
        self._span: Span | None = None
        self._trigger: Span | None = None
        self._trigger_name = "trigger"
        self._opened = self._triggered = 0
        """When the filter and the trigger began, in nanoseconds; 0 before that."""
        self._filter_traced = self._ended = False

    def __enter__(self) -> Self:
        """Begin the decision; what is traced within the block starts its span."""
        self._began = time.time_ns()
        self._within = trace.set_span_in_context(
            LateSpan(self._started), context.set_value(DECISION, self)
        )
        self._outside = context.attach(self._within)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the spans that were started; without an action, one is started only if it is kept."""
        context.detach(self._outside)
        quiet = self.notes.get("outcome") in QUIET
        if self._span is None and not quiet:
            self._started()
        elif self._span is None and quiet_is_kept():
            self._span = self._start()  # alone: its outcome is enough
        self._ended = True
        self._end_trigger()
        if self._span is not None:
            self._end(self._span, error)

    def opened(self) -> None:
        """Note that the context is there: the filter comes next."""
        self._opened = self._opened or time.time_ns()

    def triggering(self) -> None:
        """Note that the trigger comes next: what is traced from here on is within its span."""
        if not self._triggered:
            self._triggered = time.time_ns()
            self._trace_filter()
            context.attach(trace.set_span_in_context(LateSpan(self._started_trigger), self._within))

    def triggered(self, name: str) -> None:
        """End the trigger's span under its name: its action comes next."""
        if self._triggered:
            self._trigger_name = f"trigger.{name}"
            self._started_trigger()
            self._end_trigger()
            context.attach(self._within)
        self.notes["trigger"] = name

    def _started(self) -> Span:
        """Return the decision's span; it is started with the time at which the decision began."""
        if self._span is None:
            if self._ended:  # a background task that outlives the decision
                return NonRecordingSpan(
                    trace.get_current_span(self._parent()[0]).get_span_context()
                )
            self._span = self._start()
            self._trace_filter()
        return self._span

    def _start(self) -> Span:
        parent, links = self._parent()
        return TRACER.start_span(
            "agent.decide",
            parent,
            attributes=self._attributes(),
            links=links,
            start_time=self._began,
        )

    def _parent(self) -> tuple[Context, list[Link]]:
        """Return the context to go on with, and links to the traces that end with their events."""
        known = sorted({event.meta.traceparent or "" for event in self._events})
        retried = self._token is not None and (self._token.attempt > 1 or self._token.alone)
        if len(known) == 1 and not retried:
            return _extract(known[0]), []
        found = [trace.get_current_span(_extract(one)).get_span_context() for one in known]
        return Context(), [Link(each) for each in found if each.is_valid]

    def _attributes(self) -> dict[str, AttributeValue]:
        attributes: dict[str, AttributeValue] = {"scope": self._scope, "logfire.level_num": INFO}
        if self._token is None:
            return attributes | {"events": len(self._events)}
        [event] = self._events
        return attributes | {
            "event_id": event.id,
            "event_type": event.type,
            "attempt": self._token.attempt,
            "waited": self._began / 1e9 - event.recorded_at.timestamp(),
        }

    def _trace_filter(self) -> None:
        """Trace the filter once it is over and the decision has a span."""
        if self._span is not None and self._opened and self._triggered and not self._filter_traced:
            self._filter_traced = True
            within = trace.set_span_in_context(self._span)
            STEPS.start_span("filter", within, start_time=self._opened).end(self._triggered)

    def _started_trigger(self) -> Span:
        if self._trigger is None:
            within = trace.set_span_in_context(self._started())
            if self._ended:
                return trace.get_current_span(within)
            self._trigger = STEPS.start_span(self._trigger_name, within, start_time=self._triggered)
        return self._trigger

    def _end_trigger(self) -> None:
        if self._trigger is not None and self._trigger.is_recording():
            self._trigger.update_name(self._trigger_name)
            self._trigger.end()

    def _end(self, span: Span, error: BaseException | None) -> None:
        span.set_attributes({**self.notes, "logfire.msg": self._message()})
        if isinstance(error, Exception):
            span.record_exception(error)
            span.set_status(Status(StatusCode.ERROR, str(error)))
        span.end()

    def _message(self) -> str:
        notes = self.notes
        came_to = f": {notes['outcome']}" if "outcome" in notes else ""
        size = notes.get("size", "")
        of = size and f" on {size} event{'' if size == 1 else 's'}"
        by = f" ({notes['trigger']})" if "trigger" in notes else ""
        return f"agent.decide{came_to} in scope {self._scope}{of}{by}"


class LateSpan(Span):
    """A span that is started when something asks for it, such as a span within it."""

    def __init__(self, started: Callable[[], Span]) -> None:
        self._started = started

    def get_span_context(self) -> SpanContext:
        """Return the span's context, for spans within it and for events that are published."""
        return self._started().get_span_context()

    def is_recording(self) -> bool:
        """Return whether the span records what is added."""
        return self._started().is_recording()

    def end(self, end_time: int | None = None) -> None:
        """Do nothing: the decision ends its spans."""

    def set_attributes(self, attributes: Any) -> None:
        """Set some attributes."""
        self._started().set_attributes(attributes)

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        """Set one attribute."""
        self._started().set_attribute(key, value)

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        """Add an event."""
        self._started().add_event(name, attributes, timestamp)

    def add_link(self, context: SpanContext, attributes: Any = None) -> None:
        """Add a link."""
        self._started().add_link(context, attributes)

    def update_name(self, name: str) -> None:
        """Rename the span."""
        self._started().update_name(name)

    def set_status(self, status: Any, description: str | None = None) -> None:
        """Set the status."""
        self._started().set_status(status, description)

    def record_exception(
        self,
        exception: BaseException,
        attributes: Any = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Add an exception."""
        self._started().record_exception(exception, attributes, timestamp, escaped)


def _extract(traceparent: str) -> Context:
    """Return the context of a trace that goes on; an empty one if there is none to be read."""
    return TraceContextTextMapPropagator().extract({TRACEPARENT: traceparent}, Context())
