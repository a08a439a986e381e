"""The event store: a durable log in PostgreSQL, with a queue on top of it for each subscriber.

Its promise: no accepted event is lost; each is handled at least once; database effects made with
the ack happen exactly once; a stale worker cannot ack.
"""

from typing import TYPE_CHECKING

from .claim import Token
from .codec import ErasedEvent, Stored, UnreadableEvent
from .consumer import Consumer
from .cursor import Cursor
from .dead_letters import DeadLetter
from .insert import EventConflict
from .log import Latest
from .refusal import InvalidEvent
from .scopes import EarlierEventPending, ScopeMoved
from .stats import DeliveryStatus, QueueStats
from .store import EventStore

if TYPE_CHECKING:
    from .schema import EventRecord, StoreBase

__all__ = [
    "Consumer",
    "Cursor",
    "DeadLetter",
    "DeliveryStatus",
    "EarlierEventPending",
    "ErasedEvent",
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


if not TYPE_CHECKING:  # or the type checker would take any name for one of this package

    def __getattr__(name: str) -> object:
        """Import the mapped tables on first use, since that loads SQLAlchemy."""
        if name in {"EventRecord", "StoreBase"}:
            from . import schema

            return getattr(schema, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
