"""The event store: a durable log in PostgreSQL, and a queue for each subscriber on top of it.

Its promise: no accepted event is lost; each is handled at least once; database effects made with
the ack happen exactly once; a stale worker cannot ack.
"""

from typing import TYPE_CHECKING

from .admin import DeadLetter, DeliveryStatus, QueueStats
from .claim import Token
from .codec import Stored, UnreadableEvent
from .cursor import Cursor
from .hold import ScopeMoved
from .log import Latest
from .publish import EventConflict
from .refusal import InvalidEvent
from .store import EventStore

if TYPE_CHECKING:
    from .schema import EventRecord, StoreBase

__all__ = [
    "Cursor",
    "DeadLetter",
    "DeliveryStatus",
    "EventConflict",
    "EventRecord",
    "EventStore",
    "InvalidEvent",
    "Latest",
    "QueueStats",
    "ScopeMoved",
    "StoreBase",
    "Stored",
    "Token",
    "UnreadableEvent",
]


def __getattr__(name: str) -> object:
    """Return a class of the tables: SQLAlchemy, which maps them, is loaded when one is asked for."""
    if name in {"EventRecord", "StoreBase"}:
        from . import schema

        return getattr(schema, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
