"""Metrics of each client, labelled with its name and the position of its key, never with the key."""

from collections import Counter
from collections.abc import Iterator

from opentelemetry.metrics import CallbackOptions, Observation, get_meter

from .clients import Client

METER = get_meter(__name__)


class ClientCounter:
    """A counter for each client, read when metrics are exported, like `ObservableCount`."""

    def __init__(self, name: str, unit: str, description: str) -> None:
        self._counts = Counter[tuple[str, int]]()
        METER.create_observable_counter(name, [self._observe], unit, description)

    def add(self, client: Client, count: int = 1) -> None:
        """Add to the count of a client."""
        self._counts[client.name, client.key] += count

    def _observe(self, _: CallbackOptions) -> Iterator[Observation]:
        for (name, key), count in list(self._counts.items()):
            yield Observation(count, {"client": name, "key": key})


requests = ClientCounter("api.requests", "{request}", "Requests and WebSockets of each client")
events = ClientCounter("api.events", "{event}", "Events that each client published or sent again")
