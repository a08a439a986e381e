"""How far a scan of the log goes that no index supports."""

SCANNED_EVENTS = 20_000
"""The most events that one scan reads."""
