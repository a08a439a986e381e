"""Telemetry: traces, the log and metrics."""
