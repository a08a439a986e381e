"""Ports for services that are started, stopped and started again."""

import secrets
import socket
from contextlib import suppress


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody uses, below those that systems give to outgoing connections.

    So no connection takes it before the service listens, or while it is restarted.
    """
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
