"""Sessions of browsers: a signed cookie that names a client, for the console and for pages of yours.

A cookie is signed with a secret that is derived from the key of its client. So every process accepts it, a restart does
not end it, and it ends when the key is removed or belongs to another client. The service stores nothing about sessions.
The derivation is slow, so that a stolen cookie does not help to guess a weak key.

Besides the console, only the event stream and WebSockets accept a session, and only from pages of this service.
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import blake2b, scrypt, sha256
from hmac import compare_digest
from secrets import token_urlsafe
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

from starlette.requests import cookie_parser
from starlette.types import Scope

from .. import COMMAND
from ..config import Settings
from ..core.units import Seconds
from ..keys import ANONYMOUS, KEY_NAME_PREFIX, MAX_NAME_LENGTH
from .addresses import FROM_PROXY
from .clients import Client, clients_with_keys
from .rate_limits import RateLimits

if TYPE_CHECKING:
    from itsdangerous import TimestampSigner

CONSOLE_PATH = "/console"
STREAM_PATH = "/events/stream"
SOCKETS_PATH = "/ws/"
SESSION = "session"
"""The key of a request's ASGI scope that holds its session."""
SECURE_PREFIX = "__Host-"
"""Browsers accept a cookie of such a name only over HTTPS, and from the host that it is sent to."""
SCRYPT_COST = 2**14  # about 50 ms and 16 MB for each key, once in a process

type Headers = Mapping[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Session:
    """The session of a browser."""

    client: Client
    cookie: str = field(repr=False)
    """The value of its cookie."""
    key: str = field(repr=False)
    """The key that it was opened with."""
    ends_at: Seconds
    """When it ends, as Unix time."""


class Opener(NamedTuple):
    """A key that opens sessions."""

    client: Client
    key: str
    signer: "TimestampSigner"


class UnknownKey(LookupError):
    """No client has this key."""


class Sessions:
    """Opens sessions, and finds the client of a request by its session."""

    def __init__(self, settings: Settings, rates: RateLimits | None = None) -> None:
        self._settings = settings
        self._rates = rates
        self._lifetime = int(settings.console_session)
        self._header = (settings.console_trusted_header or "").encode()
        self._openers: dict[str, list[Opener]] = {}
        self._deriving = Lock()

    async def open(self, key: str) -> str:
        """Return the value of the cookie for a session with a key.

        Raises:
            UnknownKey: no client has the key.
        """
        for owner, keys in self._keys.items():
            if any(compare_digest(each.encode(), key.encode()) for _, each in keys):
                opener = next(each for each in await self._openers_of(owner) if each.key == key)
                return opener.signer.sign(f"{owner}.{token_urlsafe(16)}").decode()
        raise UnknownKey

    async def find(self, scope: Scope, headers: Headers) -> Client | None:
        """Return the client of a request that may use a session; None if it has no valid one."""
        path: str = scope["path"]
        is_stream = _accepts_session(scope["type"], path) and is_same_origin(headers)
        if not is_stream and not is_console(path):
            return None
        if (user := self._proxy_user(scope, headers)) is not None:
            return user
        session = await self._session(cookie_of(scope, headers, session_cookie(scope)))
        if session is None:
            return None
        scope[SESSION] = session
        return session.client

    async def _session(self, cookie: str) -> Session | None:
        from itsdangerous import BadSignature

        for client, key, signer in await self._openers_of(cookie.partition(".")[0]):
            try:
                _, since = signer.unsign(cookie, max_age=self._lifetime, return_timestamp=True)
            except BadSignature:
                continue  # another key of the client may have signed it
            return Session(client, cookie, key, since.timestamp() + self._lifetime)
        return None

    async def _openers_of(self, owner: str) -> list[Opener]:
        """Return the keys of an owner, from a thread the first time, since the derivation takes long."""
        if owner not in self._keys:
            return []
        known = self._openers.get(owner)
        return known if known is not None else await asyncio.to_thread(self._derive, owner)

    def _derive(self, owner: str) -> list[Opener]:
        with self._deriving:  # requests that come together wait for one derivation
            if owner not in self._openers:
                keys = self._keys[owner]
                self._openers[owner] = [
                    Opener(client, key, _signer(client, key)) for client, key in keys
                ]
        return self._openers[owner]

    def _proxy_user(self, scope: Scope, headers: Headers) -> Client | None:
        """Return the user whom a trusted proxy names; who is not a client of API_CLIENTS may only read."""
        if not self._header or not scope.get(FROM_PROXY):
            return None
        name = headers.get(self._header, b"").decode(errors="replace").strip()
        reserved = name == ANONYMOUS or name.startswith((KEY_NAME_PREFIX, "cli:"))
        if not 0 < len(name) <= MAX_NAME_LENGTH or not name.isprintable() or reserved:
            return None
        known = self._settings.api_clients.get(name)
        if known is None:
            return Client(name, frozenset({"read"}), rate_key=name, rates=self._rates)
        roles, scopes = frozenset(known.roles), tuple(known.scopes or ())
        return Client(name, roles, scopes, rate_key=name, rates=self._rates)

    @cached_property
    def _keys(self) -> dict[str, list[tuple[Client, str]]]:
        """The keys with their clients, by the owner that cookies name."""
        found = defaultdict[str, list[tuple[Client, str]]](list)
        for each, key in clients_with_keys(self._settings):
            client = replace(each, rate_key=each.name, rates=self._rates)
            found[_owner_id(client)].append((client, key.get_secret_value()))
        return dict(found)


def session_key(scope: Scope) -> str | None:
    """Return the key with which the session of a request was opened; None without a session."""
    session: Session | None = scope.get(SESSION)
    return session.key if session else None


def session_cookie(scope: Scope) -> str:
    """Return the name of the cookie that holds a session."""
    return cookie_name(scope, "session")


def cookie_name(scope: Scope, purpose: str) -> str:
    """Return the name of a cookie: over HTTPS, one that no other host can set."""
    prefix = SECURE_PREFIX if scope["scheme"] in {"https", "wss"} else ""
    return f"{prefix}{COMMAND}-{purpose}"


def headers_of(scope: Scope) -> Headers:
    """Return the headers of a request by name; the first of duplicates counts."""
    return dict(reversed(scope["headers"]))


def cookie_of(scope: Scope, headers: Headers, name: str) -> str:
    """Return the value of a request's cookie; empty if there is none."""
    cookies = headers.get(b"cookie", b"").decode("latin-1")
    return cookie_parser(cookies).get(name, "") if name in cookies else ""


def is_console(path: str) -> bool:
    """Return whether a path belongs to the console."""
    return path == CONSOLE_PATH or path.startswith(f"{CONSOLE_PATH}/")


def is_same_origin(headers: Headers) -> bool:
    """Return whether a browser states that a page of this service sent a request."""
    site = headers.get(b"sec-fetch-site")
    if site is not None:
        return site == b"same-origin"
    return b"origin" in headers and not is_other_origin(headers)


def is_other_origin(headers: Headers) -> bool:
    """Return whether a browser states that a page of another origin sent a request.

    `Sec-Fetch-Site` counts first: it is right, too, behind a proxy that replaces `Host`. Browsers send it over HTTPS
    and on this machine only, hence the comparison of `Origin` with `Host`.
    """
    site, origin = headers.get(b"sec-fetch-site"), headers.get(b"origin")
    if site is not None:
        return site not in {b"same-origin", b"none"}
    host = headers.get(b"host", b"").lower()
    return origin is not None and origin.lower().partition(b"://")[2] != host


def _accepts_session(kind: str, path: str) -> bool:
    return path.startswith(SOCKETS_PATH) if kind == "websocket" else path == STREAM_PATH


def _owner_of(client: Client) -> str:
    """Return the name of a client; empty for the clients of API_KEYS, whose numbers change with the list."""
    return "" if client.name.startswith(KEY_NAME_PREFIX) else client.name


def _owner_id(client: Client) -> str:
    """Return the id of an owner for cookies, which may contain no other characters. It is public."""
    return blake2b(_owner_of(client).encode(), digest_size=9, person=b"session").hexdigest()


def _signer(client: Client, key: str) -> "TimestampSigner":
    """Return the signer of a client's sessions; a key that belongs to another client signs otherwise."""
    from itsdangerous import TimestampSigner  # loaded at the first login

    salt = f"session of {_owner_of(client)}"
    secret = scrypt(key.encode(), salt=salt.encode(), n=SCRYPT_COST, r=8, p=1, dklen=32)
    return TimestampSigner(secret, salt=salt, key_derivation="hmac", digest_method=sha256)
