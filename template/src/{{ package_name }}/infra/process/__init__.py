"""The process: supervised tasks, start and shutdown, heartbeat, streams."""
