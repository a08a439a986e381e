"""A span that starts only if something needs it, such as a child span or a log line."""

from collections.abc import Callable
from typing import Any

from opentelemetry.trace import Span, SpanContext
from opentelemetry.util.types import AttributeValue


class LazySpan(Span):
    """A span that starts on demand, for example for a child span."""

    def __init__(self, started: Callable[[], Span]) -> None:
        self._start_once = started

    def get_span_context(self) -> SpanContext:
        """Return the span's context, for child spans and published events."""
        return self._start_once().get_span_context()

    def is_recording(self) -> bool:
        """Return whether the span is recorded."""
        return self._start_once().is_recording()

    def end(self, end_time: int | None = None) -> None:
        """Do nothing: the decision ends its spans."""

    def set_attributes(self, attributes: Any) -> None:
        """Set some attributes."""
        self._start_once().set_attributes(attributes)

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        """Set one attribute."""
        self._start_once().set_attribute(key, value)

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        """Add an event."""
        self._start_once().add_event(name, attributes, timestamp)

    def add_link(self, context: SpanContext, attributes: Any = None) -> None:
        """Add a link."""
        self._start_once().add_link(context, attributes)

    def update_name(self, name: str) -> None:
        """Rename the span."""
        self._start_once().update_name(name)

    def set_status(self, status: Any, description: str | None = None) -> None:
        """Set the status."""
        self._start_once().set_status(status, description)

    def record_exception(
        self,
        exception: BaseException,
        attributes: Any = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Add an exception."""
        self._start_once().record_exception(exception, attributes, timestamp, escaped)
