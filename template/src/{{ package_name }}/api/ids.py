"""Ids of events in addresses: producers choose them, and may use slashes."""

from starlette.convertors import Convertor, register_url_convertor


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
