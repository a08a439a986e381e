"""The API: HTTP, WebSocket and Server-Sent Events."""
