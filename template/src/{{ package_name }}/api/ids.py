"""Ids of events in addresses: producers choose them, and may use slashes."""

import re

from starlette.convertors import Convertor, register_url_convertor

# Other routes have these addresses below `/events`; clients leave out `.` and `..`, encoded or not.
RESERVED = re.compile(r"stream|dlq(/.*)?|\.\.?", re.DOTALL)


def refusal_of(event_id: str) -> str | None:
    """Return in words why an id cannot be chosen: its event would have no address."""
    if not RESERVED.fullmatch(event_id):
        return None
    return f"id: {event_id!r} has no address of its own below /events; choose another"


class EventId(Convertor[str]):
    """Matches one or more characters, slashes included: `{event_id:event_id}`."""

    regex = r"[\s\S]+"  # a dot would leave line breaks out

    def convert(self, value: str) -> str:
        """Return the id."""
        return value

    def to_string(self, value: str) -> str:
        """Return the id as it stands in an address."""
        return value


register_url_convertor("event_id", EventId())
