"""Where the server listens: the sockets of an address, whatever its family, and the URL that leads there."""

import errno
import socket
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from .infra.database import StartupError

PEER_PATIENCE = 30_000  # milliseconds that a peer may leave what we sent unread
BACKLOG = 2048  # connections that wait to be accepted
ATTEMPTS = 5  # a port that is free for one family may be taken for the other
LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where one reaches what listens everywhere
ABSENT = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}  # this machine lacks the address, or its family

type Address = tuple[socket.AddressFamily, tuple[Any, ...]]
"""A family, and an address in the shape that this family has."""


@contextmanager
def bound(host: str, port: int) -> Generator[list[socket.socket]]:
    """Listen on every address of a host, at one port, for the block.

    `::` takes IPv4 too, where the system can. Of a name with several addresses those that this
    machine lacks are left out.

    Raises:
        StartupError: the host is none of this machine, or the port is taken.
    """
    found = _addresses(host, port)
    for attempt in range(1, ATTEMPTS + 1):
        with ExitStack() as stack:
            try:
                sockets = _listen(found, stack)
            except OSError as error:
                if port == 0 and error.errno == errno.EADDRINUSE and attempt < ATTEMPTS:
                    continue
                raise _refusal(error, host, port) from error
            yield sockets
            return


def url_of(sockets: Sequence[socket.socket]) -> str:
    """Return a URL that leads to a server from its own machine."""
    first = min(sockets, key=lambda sock: sock.family != socket.AF_INET)
    name = "0.0.0.0" if _takes_both(first) else _name(first)  # noqa: S104 - a name for all of them
    return f"http://{bracketed(LOOPBACK.get(name, name))}:{first.getsockname()[1]}"


def urls_to_try(host: str, port: int) -> list[str]:
    """Return the URLs at which a service on this machine may answer, the likeliest first."""
    own = LOOPBACK.get(_unbracketed(host), _unbracketed(host))
    hosts = dict.fromkeys([own, *LOOPBACK.values()])
    return [f"http://{bracketed(each)}:{port}" for each in hosts]


def bracketed(host: str) -> str:
    """Write a host as URLs have it: an IPv6 address in brackets, the sign of its zone escaped."""
    return f"[{host.replace('%', '%25')}]" if ":" in host else host


def _unbracketed(host: str) -> str:
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def _addresses(host: str, port: int) -> Sequence[Address]:
    try:
        found = socket.getaddrinfo(
            _unbracketed(host), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, ValueError) as error:  # a name may also be too long, or have a NUL
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise StartupError(
            f"{host!r} is no address to listen on ({reason}): give an IP address of this machine, such"
            " as 127.0.0.1 or ::1, or its name, with --host or API_HOST."
        ) from error
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _listen(found: Sequence[Address], stack: ExitStack) -> list[socket.socket]:
    """Open a socket for each address; the first decides the port if none was given."""
    sockets: list[socket.socket] = []
    absent: OSError | None = None
    for family, (address, port, *zone) in found:
        chosen = sockets[0].getsockname()[1] if sockets else port
        try:
            sock = stack.enter_context(_socket(family, (address, chosen, *zone)))
        except OSError as error:
            if error.errno not in ABSENT:
                raise
            absent = error
        else:
            sockets.append(sock)
    if absent is not None and not sockets:
        raise absent
    return sockets


def _socket(family: socket.AddressFamily, address: tuple[Any, ...]) -> socket.socket:
    everywhere = address[0] == "::" and socket.has_dualstack_ipv6()
    sock = socket.create_server(address, family=family, backlog=BACKLOG, dualstack_ipv6=everywhere)
    # asyncio does so itself, but not for a socket that it was given; connections inherit it.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; elsewhere the peer may stay connected
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, PEER_PATIENCE)
    sock.set_inheritable(True)
    return sock


def _takes_both(sock: socket.socket) -> bool:
    return sock.family == socket.AF_INET6 and not sock.getsockopt(
        socket.IPPROTO_IPV6, socket.IPV6_V6ONLY
    )


def _name(sock: socket.socket) -> str:
    """Return a socket's address, with its zone where it has one."""
    name, _ = socket.getnameinfo(sock.getsockname(), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
    return name


def _refusal(error: OSError, host: str, port: int) -> StartupError:
    if error.errno in ABSENT:
        return StartupError(
            f"{host!r} is no address of this machine ({error.strerror}): choose another with --host or"
            " API_HOST."
        )
    return StartupError(
        f"Port {port} of {host} cannot be used ({error.strerror}): stop what uses it, or choose"
        " another with --port or API_PORT."
    )
