"""Sessions of browsers: a signed cookie that names a client, for the console and for pages of yours.

A cookie is signed with the key of its client. So every process accepts it, a restart does not end it, and it ends when
the key is removed or belongs to another client. The service stores nothing about sessions.

Besides the console, only the event stream and WebSockets accept a session, and only from pages of this service.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import blake2b, sha256
from secrets import token_urlsafe
from typing import TYPE_CHECKING

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


class Sessions:
    """Opens sessions, and finds the client of a request by its session."""

    def __init__(self, settings: Settings, rates: RateLimits | None = None) -> None:
        self._settings = settings
        self._rates = rates
        self._lifetime = int(settings.console_session)
        self._header = (settings.console_trusted_header or "").encode()

    def open(self, key: str) -> str | None:
        """Return the value of the cookie for a session with a key; None if no client has the key."""
        print_ = _fingerprint(key)
        if print_ not in self._by_fingerprint:
            return None
        client, key = self._by_fingerprint[print_]
        return _signer(client, key).sign(f"{print_}.{token_urlsafe(16)}").decode()

    def find(self, scope: Scope, headers: Headers) -> Client | None:
        """Return the client of a request that may use a session; None if it has no valid one."""
        path: str = scope["path"]
        if is_console(path):
            if (user := self._proxy_user(scope, headers)) is not None:
                return user
        elif not _accepts_session(scope["type"], path) or not is_same_origin(headers):
            return None
        session = self._session(cookie_of(scope, headers, session_cookie(scope)))
        if session is None:
            return None
        scope[SESSION] = session
        return session.client

    def _session(self, cookie: str) -> Session | None:
        from itsdangerous import BadSignature

        client, key = self._by_fingerprint.get(cookie.partition(".")[0], (None, ""))
        if client is None:
            return None
        try:
            _, since = _signer(client, key).unsign(
                cookie, max_age=self._lifetime, return_timestamp=True
            )
        except BadSignature:
            return None
        return Session(client, cookie, key, since.timestamp() + self._lifetime)

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
    def _by_fingerprint(self) -> dict[str, tuple[Client, str]]:
        return {
            _fingerprint(text): (
                replace(each, rate_key=each.name, rates=self._rates),
                text,
            )
            for each, key in clients_with_keys(self._settings)
            for text in [key.get_secret_value()]
        }


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


def _fingerprint(key: str) -> str:
    """Return a name for a key, by which its signature is checked without trying all keys."""
    return blake2b(key.encode(), digest_size=9, person=b"session").hexdigest()


def _signer(client: Client, key: str) -> "TimestampSigner":
    """Return the signer of a client's sessions; a key that belongs to another client signs otherwise."""
    from itsdangerous import TimestampSigner  # loaded at the first login

    owner = "" if client.name.startswith(KEY_NAME_PREFIX) else client.name
    return TimestampSigner(
        key, salt=f"session of {owner}", key_derivation="hmac", digest_method=sha256
    )
