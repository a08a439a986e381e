"""Trace an event from the request that publishes it, through its decision, to the push of the action.

An event's meta has the W3C trace context of its publisher, so any process continues the trace. A retry
starts a trace of its own, linked to the first: otherwise a trace could grow without end.

Most decisions hold their event or filter it out. So the span of a decision starts on demand: for a child
span, a log line, an event that it publishes, or an action at its end.
"""

import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from types import TracebackType
from typing import Self

from logfire.propagate import attach_context
from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, Span, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from ...core.events import Event
from ...core.units import Scope
from ..store import Token
from .lazy_span import LazySpan
from .spans import QUIET_OUTCOMES, records_details
from .spans import TRACER as STEPS

TRACEPARENT = "traceparent"
TRACER = trace.get_tracer(__name__)
INFO = 9  # OpenTelemetry's severity number, as Logfire stores it

_current: ContextVar["Decision | None"] = ContextVar("decision", default=None)
"""The decision whose block is running."""


def continuing(traceparent: str | None) -> AbstractContextManager[None]:
    """Continue a trace for the block; start a new one if `traceparent` is None."""
    return attach_context({TRACEPARENT: traceparent} if traceparent else {})


def deciding(event: Event, token: Token) -> "Decision":
    """Trace the decision on one event, unless it only holds the event or filters it out."""
    return Decision([event], event.scope, token)


def deciding_together(events: Iterable[Event], scope: Scope) -> "Decision":
    """Trace one decision on several events: in their common trace, or with links to their traces."""
    return Decision(list(events), scope)


def note(**attributes: str | int) -> None:
    """Add attributes to the span of the current decision or, outside of one, to the current span."""
    if (decision := current_decision()) is not None:
        decision.notes.update(attributes)
    else:
        trace.get_current_span().set_attributes(attributes)


def current_decision() -> "Decision | None":
    """Return the decision whose block is running; None outside of one."""
    return _current.get()


class Decision:
    """The context manager of one decision, with the spans of its filter and trigger."""

    def __init__(self, events: Sequence[Event], scope: Scope, token: Token | None = None) -> None:
        self._events: Sequence[Event] = events
        self._traceparents: list[str] = []
        """The trace contexts of the events, kept after the decision has ended."""
        self._scope = scope
        self._token = token
        self.notes: dict[str, str | int] = {}
        """Attributes that are set when the span ends."""
        self._span: Span | None = None
        self._trigger: Span | None = None
        self._trigger_name = "trigger"
        self._filter_started_at = self._trigger_started_at = 0
        """Unix times in nanoseconds; 0 before the start."""
        self._filter_traced = self._ended = False

    def __enter__(self) -> Self:
        """Start the decision; its span starts with the first trace, log or event in the block."""
        self._started_at = time.time_ns()
        self._outer_decision = _current.get()
        _current.set(self)
        self._within = trace.set_span_in_context(LazySpan(self._start_once))
        self._outside = context.attach(self._within)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the started spans; a quiet decision without one gets a span only if details are recorded."""
        context.detach(self._outside)
        _current.set(self._outer_decision)
        quiet = self.notes.get("outcome") in QUIET_OUTCOMES
        if self._span is None and not quiet:
            self._start_once()
        elif self._span is None and records_details():
            self._span = self._start()  # without its steps
        self._ended = True
        self._end_trigger()
        if self._span is not None:
            self._end(self._span, error)
        # Context and spans form a reference cycle: drop the events before the garbage collector runs.
        self._traceparents, self._events = self._traces(), ()

    def filter_starts(self) -> None:
        """Record that the context is open and the filter starts."""
        self._filter_started_at = self._filter_started_at or time.time_ns()

    def trigger_starts(self) -> None:
        """Record that the trigger starts; spans from here on are its children, if steps have spans."""
        if not self._trigger_started_at:
            self._trigger_started_at = time.time_ns()
            self._trace_filter()
            if records_details():
                trigger = LazySpan(self._start_trigger_once)
                context.attach(trace.set_span_in_context(trigger, self._within))

    def trigger_ends(self, name: str) -> None:
        """End the trigger's span, with the trigger's name, before the action."""
        if self._trigger_started_at:
            self._trigger_name = f"trigger.{name}"
            self._start_trigger_once()
            self._end_trigger()
            context.attach(self._within)
        self.notes["trigger"] = name

    def _start_once(self) -> Span:
        """Return the decision's span, and start it with the decision's start time if needed."""
        if self._span is None:
            if self._ended:  # a background task outlives the decision
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
            start_time=self._started_at,
        )

    def _parent(self) -> tuple[Context, list[Link]]:
        """Return the context of the trace to continue, and links to other traces."""
        known = self._traceparents or self._traces()
        retried = self._token is not None and (self._token.attempt > 1 or self._token.alone)
        if len(known) == 1 and not retried:
            return _extract(known[0]), []
        found = [trace.get_current_span(_extract(one)).get_span_context() for one in known]
        return Context(), [Link(each) for each in found if each.is_valid]

    def _traces(self) -> list[str]:
        return sorted({event.meta.traceparent or "" for event in self._events})

    def _attributes(self) -> dict[str, AttributeValue]:
        attributes: dict[str, AttributeValue] = {"scope": self._scope, "logfire.level_num": INFO}
        if self._token is None:
            return attributes | {"events": len(self._events)}
        [event] = self._events
        return attributes | {
            "event_id": event.id,
            "event_type": event.type,
            "attempt": self._token.attempt,
            "waited": self._started_at / 1e9 - event.recorded_at.timestamp(),
        }

    def _trace_filter(self) -> None:
        """Trace the filter after its end, if the decision has a span."""
        if (
            self._span is not None
            and self._filter_started_at
            and self._trigger_started_at
            and not self._filter_traced
        ):
            self._filter_traced = True
            if not records_details():
                return
            within = trace.set_span_in_context(self._span)
            STEPS.start_span("filter", within, start_time=self._filter_started_at).end(
                self._trigger_started_at
            )

    def _start_trigger_once(self) -> Span:
        if not records_details():
            return self._start_once()
        if self._trigger is None:
            within = trace.set_span_in_context(self._start_once())
            if self._ended:
                return trace.get_current_span(within)
            self._trigger = STEPS.start_span(
                self._trigger_name, within, start_time=self._trigger_started_at
            )
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
        outcome = f": {notes['outcome']}" if "outcome" in notes else ""
        size = notes.get("size", "")
        of = size and f" on {size} event{'' if size == 1 else 's'}"
        by = f" ({notes['trigger']})" if "trigger" in notes else ""
        return f"agent.decide{outcome} in scope {self._scope}{of}{by}"


def _extract(traceparent: str) -> Context:
    """Return the context of a trace; an empty one if `traceparent` is not valid."""
    return TraceContextTextMapPropagator().extract({TRACEPARENT: traceparent}, Context())
