"""Check the `Host` header of requests, against DNS rebinding.

A page of another site can resolve a name of its own to this machine, and make a browser send requests
under that name. If no key is required, the page could read everything.
"""

from functools import lru_cache
from ipaddress import ip_address

from ..config import Settings
from ..infra.text import shorten
from .errors import MAX_QUOTE_BYTES

WILDCARD = "*"
LOCAL_SUFFIXES = (".localhost", ".local", ".internal", ".test")
"""Suffixes of names that only this machine or its own network resolves."""


class AllowedHosts:
    """The names of `ALLOWED_HOSTS`; without it, a default for the environment.

    IP addresses are always allowed: health checks use them, and only a name can be rebound. By default,
    development allows names of this machine and its network. Production allows all: it requires keys.
    """

    def __init__(self, settings: Settings) -> None:
        names = settings.allowed_hosts or ([] if settings.lenient else [WILDCARD])
        self._allow_any = WILDCARD in names
        self._allow_local = settings.lenient and not names
        self._names = frozenset(names) | {"localhost", settings.api_host.lower()}
        self._suffixes = tuple(name.removeprefix("*") for name in names if name.startswith("*."))
        self.refusal = lru_cache(1024)(self._refusal)
        """Return the error for a `Host` header; None if it is allowed. Results are cached."""

    def _refusal(self, header: bytes) -> str | None:
        name = _host_name(header.decode("latin-1"))
        if self._allow_any or not name or name in self._names or name.endswith(self._suffixes):
            return None
        if _is_address(name) or (self._allow_local and _is_local(name)):
            return None
        return (
            f"Host: {shorten(name, MAX_QUOTE_BYTES)!r} is not a name of this service: use another, or add it to"
            " ALLOWED_HOSTS"
        )


def _host_name(header: str) -> str:
    """Return the name of a `Host` header without its port."""
    name = header.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0].removesuffix(".")


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _is_local(name: str) -> bool:
    return "." not in name or name.endswith(LOCAL_SUFFIXES)
