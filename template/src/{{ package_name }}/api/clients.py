"""Clients of the API: find one by its key, and check its roles and scopes."""

import hmac
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from hashlib import blake2b
from secrets import token_bytes

from fastapi import HTTPException
from pydantic import SecretStr

from ..config import Settings
from ..core.events import Event
from ..core.units import Scope
from ..keys import ANONYMOUS, KEY_NAME_PREFIX, ROLES, Role
from .rate_limits import RateLimits

HTTP_FORBIDDEN = 403


@dataclass(frozen=True, slots=True)
class Client:
    """A client of the API, with its name, roles and scopes."""

    name: str
    roles: frozenset[Role] = frozenset(ROLES)
    scopes: tuple[str, ...] = ()
    """The prefixes of its scopes; empty for all scopes."""
    key: int = 0
    """The position of the key that it sent, from 1; 0 if no key is required."""
    rate_key: str = ""
    """The key of its rate limits: its name or, if no key is required, its network."""
    rates: RateLimits | None = field(default=None, repr=False, compare=False)

    @property
    def within(self) -> list[str] | None:
        """The prefixes of its scopes for a query of the store; None for all scopes."""
        return list(self.scopes) or None

    def includes(self, scope: Scope) -> bool:
        """Return whether the client may use a scope."""
        return not self.scopes or scope.startswith(self.scopes)

    def spend(self, events: int = 1) -> None:
        """Count published events against the client's limit.

        Raises:
            RateLimited: the client published too many events.
        """
        if self.rates is not None:
            self.rates.count_events(self.rate_key, events)

    def require(self, *roles: Role) -> None:
        """Check that the client has all these roles.

        Raises:
            HTTPException: the client lacks one.
        """
        for role in roles:
            if role not in self.roles:
                raise HTTPException(
                    HTTP_FORBIDDEN,
                    f"The client {self.name!r} lacks the role {role!r}: add it in API_CLIENTS, or use"
                    " another key",
                )

    def require_scope(self, event: Event, place: str = "") -> None:
        """Check that the client may use the event's scope.

        Raises:
            HTTPException: it may not; the message begins with `place`.
        """
        if not self.includes(event.scope):
            begin = ", ".join(map(repr, self.scopes))
            raise HTTPException(
                HTTP_FORBIDDEN,
                f"{place}scope: the client {self.name!r} may not use {event.scope!r}: name a scope that"
                f" begins with {begin}",
            )


ANONYMOUS_CLIENT = Client(ANONYMOUS)
"""The client of every request if no key is required: it has all roles."""


class Clients:
    """All clients, indexed by their keys.

    The index uses digests that are keyed with a random secret of the process. So the time of a lookup
    does not depend on the keys, and does not grow with their number.
    """

    def __init__(self, settings: Settings, rates: RateLimits | None = None) -> None:
        self._anonymous = lru_cache(4096)(partial(_anonymous, rates))
        self._secret = token_bytes(32)
        self._by_digest = {
            self._digest(form): replace(client, rate_key=client.name, rates=rates)
            for client, key in clients_with_keys(settings)
            for form in _encodings(key.get_secret_value())
        }
        self.anonymous = not self._by_digest
        """Whether no key is required, as in development."""

    def find(self, authorization: bytes | None, address: str = "") -> Client | None:
        """Return the client of an `Authorization` header; None if its key is not valid.

        If no key is required, each address is a client.
        """
        if self.anonymous:
            return self._anonymous(address)
        scheme, _, sent = (authorization or b"").partition(b" ")
        client = self._by_digest.get(self._digest(sent.strip()))
        return client if scheme.lower() == b"bearer" else None

    def _digest(self, key: bytes) -> bytes:
        return blake2b(key, key=self._secret, digest_size=32).digest()


def _anonymous(rates: RateLimits | None, address: str) -> Client:
    return replace(ANONYMOUS_CLIENT, rate_key=address, rates=rates)


def allows_anonymous(settings: Settings) -> bool:
    """Return whether requests need no key."""
    return not settings.api_keys and not settings.api_clients


def find_key(settings: Settings, authorization: str | None) -> str | None:
    """Return the valid key of a header; None if it has none."""
    scheme, _, sent = (authorization or "").partition(" ")
    given, found = sent.strip().encode("latin-1", "replace"), None
    for _, key in clients_with_keys(settings):  # no early exit: timing must not reveal a key
        for form in _encodings(key.get_secret_value()):
            if hmac.compare_digest(form, given):
                found = key.get_secret_value()
    return found if scheme.lower() == "bearer" else None


def clients_with_keys(settings: Settings) -> Iterator[tuple[Client, SecretStr]]:
    """Return each client once for each of its keys."""
    for number, key in enumerate(settings.api_keys, 1):
        yield Client(f"{KEY_NAME_PREFIX}{number}", key=1), key
    for name, each in settings.api_clients.items():
        for number, key in enumerate(each.key, 1):
            yield Client(name, frozenset(each.roles), tuple(each.scopes or ()), number), key


def _encodings(key: str) -> set[bytes]:
    """Return the encodings in which libraries send a key: UTF-8 and, if possible, Latin-1."""
    forms = {key.encode()}
    try:
        forms.add(key.encode("latin-1"))
    except UnicodeEncodeError:
        pass
    return forms
