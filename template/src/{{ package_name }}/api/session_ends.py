"""Ends the connections that a session opened: neither a stream nor a WebSocket outlives it."""

import time

from starlette.types import Scope

from ..core.units import Seconds
from .sessions import SESSION, Session

SESSION_ENDED = "the session ended: log in again"


class SessionEnded(Exception):
    """The session that opened a connection ended."""

    def __init__(self) -> None:
        super().__init__(SESSION_ENDED)


def session_time_left(scope: Scope) -> Seconds | None:
    """Return the seconds until the session of a request ends; None without a session."""
    session: Session | None = scope.get(SESSION)
    return None if session is None else max(0.0, session.ends_at - time.time())
