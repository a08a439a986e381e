"""Who may come in: bearer keys, compared in constant time.

Without `API_KEYS` everybody may, which production refuses to start with.
"""

import hmac

from fastapi import HTTPException, status
from fastapi.requests import HTTPConnection
from fastapi.security import HTTPBearer

from ..config import Settings
from .deps import settings_of


class Bearer(HTTPBearer):
    """Refuses a request without a known key; one dependency, which also documents itself."""

    async def __call__(self, request: HTTPConnection) -> None:
        """Go on if the request has a known key."""
        if key_of(settings_of(request), request.headers.get("authorization")) is None:
            raise HTTPException(
                status.HTTP_401_UNAUTHORIZED,
                "Authorization: send a valid key as `Bearer <key>`",
                {"WWW-Authenticate": "Bearer"},
            )


require_key = Bearer(scheme_name="HTTPBearer", description="One of `API_KEYS`")


def key_of(settings: Settings, authorization: str | None) -> str | None:
    """Return the known key that the header carries, "" where none is asked for, or None."""
    if not settings.api_keys:
        return ""
    scheme, _, sent = (authorization or "").partition(" ")
    found: str | None = None
    for known in settings.api_keys:  # all of them: how long this takes must not tell which
        if hmac.compare_digest(known.get_secret_value().encode(), sent.strip().encode()):
            found = known.get_secret_value()
    return found if scheme.lower() == "bearer" else None


def may_use_client(key: str, client_id: str) -> bool:
    """Say which key may speak as which WebSocket client; change it when keys belong to tenants."""
    return bool(client_id)
