"""Open the server's listening sockets, for IPv4 and IPv6, and return the URL to reach them."""

import errno
import socket
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from .infra.database import StartupError

TCP_USER_TIMEOUT_MS = 30_000  # milliseconds that sent data may stay unacknowledged
BACKLOG = 2048  # connections that wait to be accepted
MAX_ATTEMPTS = 5  # a port that is free for one family may be taken for the other
LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - how to reach a server on all addresses
UNAVAILABLE_ADDRESS = {
    errno.EADDRNOTAVAIL,
    errno.EAFNOSUPPORT,
}  # the machine lacks the address, or its family

type Address = tuple[socket.AddressFamily, tuple[Any, ...]]
"""A family, and an address in the format of this family."""


@contextmanager
def listen(host: str, port: int) -> Generator[list[socket.socket]]:
    """Listen on every address of a host, on one port, for the block.

    `::` accepts IPv4 too if the system supports it. If a name has several addresses, those that this
    machine lacks are skipped.

    Raises:
        StartupError: the host is not an address of this machine, or the port is in use.
    """
    found = _resolve(host, port)
    for attempt in range(1, MAX_ATTEMPTS + 1):
        with ExitStack() as stack:
            try:
                sockets = _open_sockets(found, stack)
            except OSError as error:
                if port == 0 and error.errno == errno.EADDRINUSE and attempt < MAX_ATTEMPTS:
                    continue
                raise _startup_error(error, host, port) from error
            yield sockets
            return


def url_of(sockets: Sequence[socket.socket]) -> str:
    """Return the URL of a server for clients on its own machine."""
    first = min(sockets, key=lambda sock: sock.family != socket.AF_INET)
    name = "0.0.0.0" if _is_dual_stack(first) else _numeric_address(first)  # noqa: S104 - stands for all addresses
    return f"http://{url_host(LOOPBACK.get(name, name))}:{first.getsockname()[1]}"


def urls_to_try(host: str, port: int) -> list[str]:
    """Return the URLs at which a service on this machine may listen, the likeliest first."""
    own = LOOPBACK.get(_strip_brackets(host), _strip_brackets(host))
    hosts = dict.fromkeys([own, *LOOPBACK.values()])
    return [f"http://{url_host(each)}:{port}" for each in hosts]


def url_host(host: str) -> str:
    """Return a host as in a URL: an IPv6 address in brackets, with `%` of its zone escaped."""
    return f"[{host.replace('%', '%25')}]" if ":" in host else host


def _strip_brackets(host: str) -> str:
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def _resolve(host: str, port: int) -> Sequence[Address]:
    try:
        found = socket.getaddrinfo(
            _strip_brackets(host), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, ValueError) as error:  # ValueError: the name is too long, or has a NUL
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise StartupError(
            f"{host!r} is not an address to listen on ({reason}): set --host or API_HOST to an IP address"
            " of this machine, such as 127.0.0.1 or ::1, or to its name."
        ) from error
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _open_sockets(found: Sequence[Address], stack: ExitStack) -> list[socket.socket]:
    """Open a socket for each address; if the port is 0, the first socket chooses it."""
    sockets: list[socket.socket] = []
    absent: OSError | None = None
    for family, (address, port, *zone) in found:
        chosen = sockets[0].getsockname()[1] if sockets else port
        try:
            sock = stack.enter_context(_open_socket(family, (address, chosen, *zone)))
        except OSError as error:
            if error.errno not in UNAVAILABLE_ADDRESS:
                raise
            absent = error
        else:
            sockets.append(sock)
    if absent is not None and not sockets:
        raise absent
    return sockets


def _open_socket(family: socket.AddressFamily, address: tuple[Any, ...]) -> socket.socket:
    dual_stack = address[0] == "::" and socket.has_dualstack_ipv6()
    sock = socket.create_server(address, family=family, backlog=BACKLOG, dualstack_ipv6=dual_stack)
    # asyncio sets this only on sockets that it opens itself; connections inherit it.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux only: elsewhere, a dead peer stays connected
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, TCP_USER_TIMEOUT_MS)
    sock.set_inheritable(True)
    return sock


def _is_dual_stack(sock: socket.socket) -> bool:
    return sock.family == socket.AF_INET6 and not sock.getsockopt(
        socket.IPPROTO_IPV6, socket.IPV6_V6ONLY
    )


def _numeric_address(sock: socket.socket) -> str:
    """Return a socket's numeric address, with its zone if it has one."""
    name, _ = socket.getnameinfo(sock.getsockname(), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
    return name


def _startup_error(error: OSError, host: str, port: int) -> StartupError:
    if error.errno in UNAVAILABLE_ADDRESS:
        return StartupError(
            f"{host!r} is not an address of this machine ({error.strerror}): choose another with --host or"
            " API_HOST."
        )
    return StartupError(
        f"Port {port} of {host} cannot be used ({error.strerror}): stop the process that uses it, or choose"
        " another with --port or API_PORT."
    )
