"""Ids of events in URLs. Producers choose them, and may use slashes."""

import re

from starlette.convertors import Convertor, register_url_convertor

from ..core.events import SOURCE_ID_PREFIX, TICK_ID_PREFIX

RESERVED_PREFIXES = {TICK_ID_PREFIX: "ticks", SOURCE_ID_PREFIX: "webhooks and pollers"}
# Other routes have these paths below `/events`; HTTP clients resolve `.` and `..`, encoded or not.
RESERVED_IDS = re.compile(r"stream|dlq(/.*)?|\.\.?", re.DOTALL)


def id_error(event_id: str) -> str | None:
    """Return why an id is not allowed: it is reserved, or has no URL; None if it is allowed."""
    for prefix, owner in RESERVED_PREFIXES.items():
        if event_id.startswith(prefix):
            return f"id: {event_id!r} begins with {prefix!r}, which is reserved for {owner}; choose another"
    if RESERVED_IDS.fullmatch(event_id):
        return f"id: {event_id!r} has no URL of its own below /events; choose another"
    return None


class EventIdConvertor(Convertor[str]):
    """Matches one or more characters, slashes included: `{event_id:event_id}`."""

    regex = r"[\s\S]+"  # a dot would not match line breaks

    def convert(self, value: str) -> str:
        """Return the id."""
        return value

    def to_string(self, value: str) -> str:
        """Return the id as it stands in a URL."""
        return value


register_url_convertor("event_id", EventIdConvertor())
