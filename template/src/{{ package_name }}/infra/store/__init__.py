"""The event store: a durable log in PostgreSQL, and a queue for each subscriber on top of it.

Its promise: no accepted event is lost; each is handled at least once; database effects made with
the ack happen exactly once; a stale worker cannot ack.
"""

from .admin import DeadLetter, DeliveryStatus, QueueStats
from .claim import Token
from .codec import Stored, UnreadableEvent
from .cursor import Cursor
from .hold import ScopeBehind, ScopeMoved
from .log import Latest
from .publish import EventConflict
from .refusal import InvalidEvent
from .schema import EventRecord, StoreBase
from .store import EventStore

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
    "ScopeBehind",
    "ScopeMoved",
    "StoreBase",
    "Stored",
    "Token",
    "UnreadableEvent",
]
