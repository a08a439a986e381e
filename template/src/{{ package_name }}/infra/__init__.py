"""The infrastructure: database, event store, memory, locks, timers, models, telemetry, processes."""
