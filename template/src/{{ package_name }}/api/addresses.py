"""Resolve the address of a client, also behind trusted proxies."""

import re
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from starlette.types import Scope

from ..config import Settings

FORWARDED_FOR = re.compile(r'for=("?)([^";,\s]+)\1', re.IGNORECASE)
"""Matches an address in a `Forwarded` header (RFC 7239)."""
FROM_PROXY = "from a trusted proxy"
"""The key of a request's ASGI scope that marks a trusted proxy as the sender."""
SECURE_SCHEMES = {"http": "https", "ws": "wss"}


class TrustedProxies:
    """Proxies whose forwarding headers are trusted."""

    def __init__(self, settings: Settings) -> None:
        self._networks = [ip_network(each, strict=False) for each in settings.trusted_proxies]
        self._header = settings.proxy_header.encode()
        self._max_per_network = settings.api_max_per_address
        self._active: Counter[str] = Counter()
        self.includes = lru_cache(1024)(self._includes)

    def resolve_client(self, scope: Scope) -> bool:
        """Set the client's own address and scheme on a request that came through a trusted proxy.

        The proxy may name the scheme only. Returns whether it names a client.
        """
        if not self._networks:
            return False
        peer = (scope.get("client") or ("",))[0]
        if not self.includes(peer):
            return False
        scope[FROM_PROXY] = True
        if _header(scope, b"x-forwarded-proto") in {"https", "wss"}:
            scope["scheme"] = SECURE_SCHEMES.get(scope["scheme"], scope["scheme"])
        if (address := self._forwarded_client(scope)) is None:
            return False
        scope["client"] = (address, 0)
        return True

    @contextmanager
    def track_request(self, scope: Scope) -> Generator[bool]:
        """Count a request of a client for the block; yield False if the client exceeds its limit."""
        network = network_of(scope["client"][0])
        self._active[network] += 1
        try:
            yield self._active[network] <= self._max_per_network
        finally:
            self._active[network] -= 1
            if not self._active[network]:
                del self._active[network]

    def _includes(self, address: str) -> bool:
        parsed = _parse_ip(address)
        return parsed is not None and any(parsed in each for each in self._networks)

    def _forwarded_client(self, scope: Scope) -> str | None:
        """Return the last address that a trusted proxy added; a client can forge earlier ones."""
        value = _header(scope, self._header)
        hops = (
            [found[1] for found in FORWARDED_FOR.findall(value)]
            if self._header == b"forwarded"
            else value.split(",")
        )
        client: str | None = None
        for hop in reversed(hops):
            if (parsed := _parse_ip(hop)) is None:
                break
            client = str(parsed)
            if not self.includes(client):
                break
        return client


def client_network(scope: Scope) -> str:
    """Return the network of a request's client; empty if the server does not report an address."""
    client: tuple[str, int] | None = scope.get("client")
    return network_of(client[0]) if client else ""


@lru_cache(4096)
def network_of(address: str) -> str:
    """Return the network that limits count as one client.

    This is an IPv4 address, or the /64 of an IPv6 address: one host owns at least a /64.
    """
    parsed = _parse_ip(address)
    return (
        str(ip_network((parsed, 64), strict=False)) if isinstance(parsed, IPv6Address) else address
    )


def _parse_ip(hop: str) -> IPv4Address | IPv6Address | None:
    """Parse an address, which may have a port or brackets; return None if it is not valid."""
    text = hop.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        parsed = ip_address(text)
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return mapped or parsed


def _header(scope: Scope, name: bytes) -> str:
    return ",".join(value.decode("latin-1") for key, value in scope["headers"] if key == name)
