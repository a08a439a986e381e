"""What the service stands on: database, event store, memory, locks, timers, telemetry."""
