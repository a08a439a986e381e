"""Who may come in: bearer keys, compared in constant time.

Without `API_KEYS` everybody may, which production refuses to start with.
"""

import hmac
from typing import Annotated

from fastapi import HTTPException, Request, Security, status
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from ..config import Settings
from .deps import SettingsDep

documented = HTTPBearer(auto_error=False, description="One of `API_KEYS`")

type Documented = Annotated[HTTPAuthorizationCredentials | None, Security(documented)]


async def require_key(settings: SettingsDep, request: Request, _: Documented) -> None:
    """Refuse a request without a known key."""
    if key_of(settings, request.headers.get("authorization")) is None:
        raise HTTPException(
            status.HTTP_401_UNAUTHORIZED,
            "Authorization: send a valid key as `Bearer <key>`",
            {"WWW-Authenticate": "Bearer"},
        )


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
