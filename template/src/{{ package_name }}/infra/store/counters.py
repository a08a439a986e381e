"""What the store counts: each accepted event once, and how each of its deliveries ended."""

import logfire

published = logfire.metric_counter(
    "events.published", unit="{event}", description="Accepted into the log"
)
handled = logfire.metric_counter(
    "events.handled", unit="{event}", description="Settled: filtered out, answered, or let go"
)
failed = logfire.metric_counter(
    "events.failed", unit="{event}", description="Attempts that failed and are to be repeated"
)
dead = logfire.metric_counter("events.dead", unit="{event}", description="Given up")
lease_expired = logfire.metric_counter(
    "leases.expired", unit="{lease}", description="Taken over from a worker that fell silent"
)
stale = logfire.metric_counter(
    "acks.stale", unit="{ack}", description="Came too late to count: another worker has the event"
)
