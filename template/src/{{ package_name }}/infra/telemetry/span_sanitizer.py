"""Make the text of spans encodable for every exporter, and remove secrets of URLs."""

from opentelemetry.context import Context
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanProcessor
from opentelemetry.trace import Span, Status
from opentelemetry.util.types import Attributes

from ..text import (
    address_without_passwords,
    one_line,
    query_without_passwords,
    storable,
    storable_json,
    without_passwords,
)
from .spans import MESSAGE, record_details

URL_ATTRIBUTES = dict.fromkeys(
    ("http.url", "http.target", "url.full", "url.path"), address_without_passwords
) | {"url.query": query_without_passwords}
"""Attributes with parts of a URL, which the client chose, and the function that removes secrets."""


class SpanSanitizer(SpanProcessor):
    """Cleans the text of each span for the exporters after it.

    OTLP rejects a lone surrogate, and with it every span of the same batch. Names and URLs become single
    lines without control characters.
    """

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Clean the name and URLs of a started span, which Logfire exports as pending."""
        if not isinstance(span, ReadableSpan):
            return
        attributes = span.attributes or {}
        for key in [key for key in attributes if key in URL_ATTRIBUTES]:
            text = str(attributes[key])
            if (clean := one_line(URL_ATTRIBUTES[key](text))) != text:
                span.set_attribute(key, clean)
        if not span.name.isprintable():
            name = one_line(span.name)
            if attributes.get(MESSAGE) == span.name:
                span.set_attribute(MESSAGE, name)
            span.update_name(name)

    def shutdown(self) -> None:
        """Record all spans from now on: the next configuration may export them."""
        record_details(True)

    def on_end(self, span: ReadableSpan) -> None:
        """Clean the name, attributes, exceptions and status of an ended span."""
        # The SDK has no public API to change an ended span, which all exporters share.
        parts = vars(span)
        parts["_name"] = one_line(without_passwords(span.name))
        if _needs_cleaning(span.attributes):
            parts["_attributes"] = _clean_attributes(span.attributes)
        if any(_needs_cleaning(event.attributes) for event in span.events):
            parts["_events"] = [
                Event(event.name, _clean_attributes(event.attributes), event.timestamp)
                for event in span.events
            ]
        if description := span.status.description:
            parts["_status"] = Status(span.status.status_code, _clean_text(description))


def _needs_cleaning(attributes: Attributes) -> bool:
    """Return whether cleaning may change an attribute, in a tenth of the time that cleaning takes."""
    texts = [
        (key, str(value)) for key, value in (attributes or {}).items() if not isinstance(value, int)
    ]
    return any(
        not text.isascii()
        or ("@" in text and "://" in text)
        or ("=" in text and "?" in text)
        or (key in URL_ATTRIBUTES and not text.isprintable())
        for key, text in texts
    )


def _clean_attributes(attributes: Attributes) -> Attributes:
    texts = storable_json(dict(attributes or {}))
    for key, clean in URL_ATTRIBUTES.items():
        if isinstance(address := texts.get(key), str):
            texts[key] = one_line(clean(address))
    return {key: _clean_text(value) for key, value in texts.items()}


def _clean_text[T](value: T) -> T | str:
    return without_passwords(storable(value)) if isinstance(value, str) else value
