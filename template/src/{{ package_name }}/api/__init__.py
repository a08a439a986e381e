"""The doors: HTTP, WebSocket and the stream of events."""
