"""Counts accepted events, the ends of their deliveries, expired leases and stale acks."""

from collections.abc import Iterator

from opentelemetry.metrics import CallbackOptions, Observation, get_meter

METER = get_meter(__name__)


class ObservableCount:
    """A counter that is read only when metrics are exported.

    Updating an OpenTelemetry counter for each event takes a tenth of the time of publishing one.
    """

    def __init__(self, name: str, unit: str, description: str) -> None:
        self._count = 0
        # Logfire's own observable counters are lost if they are created before it is configured.
        METER.create_observable_counter(name, [self._observe], unit, description)

    def add(self, count: int) -> None:
        """Add `count`."""
        self._count += count

    def _observe(self, _: CallbackOptions) -> Iterator[Observation]:
        yield Observation(self._count)


published = ObservableCount("events.published", "{event}", "Accepted into the log")
handled = ObservableCount(
    "events.handled", "{event}", "Settled: filtered out, answered, or dropped"
)
failed = ObservableCount("events.failed", "{event}", "Failed attempts that will be retried")
dropped = ObservableCount(
    "events.dropped", "{event}", "Dropped: held too long, or too many in a scope"
)
pruned = ObservableCount("events.pruned", "{event}", "Deleted from the log by LOG_RETENTION")
evicted = ObservableCount(
    "contexts.evicted", "{context}", "Evicted from memory; rebuilt when needed"
)
dead = ObservableCount("events.dead", "{event}", "Dead-lettered")
lease_expired = ObservableCount(
    "leases.expired", "{lease}", "Expired and claimed by another worker"
)
effects_skipped = ObservableCount(
    "effects.skipped", "{effect}", "Tools that did not act, since EFFECTS is off"
)
recorded_units = ObservableCount(
    "decisions.recorded_units", "{unit}", "Model requests and tool calls that were recorded"
)
replayed_units = ObservableCount(
    "decisions.replayed_units", "{unit}", "Those that a retry took from the journal"
)
stale = ObservableCount("acks.stale", "{ack}", "Refused as stale: another worker has the event")
