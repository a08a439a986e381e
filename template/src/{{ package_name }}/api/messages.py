"""Messages to clients, with a bounded queue for each client.

Each event is encoded once, and all its recipients share the bytes.
"""

import asyncio
from collections import deque
from typing import Literal

from ..config import Settings
from ..infra.store import Cursor, ErasedEvent, Stored, UnreadableEvent
from ..infra.store.log import EventFilter
from ..infra.text import one_line


class Message:
    """An event encoded for clients, as one line of JSON."""

    __slots__ = ("id", "json", "label", "name", "pending_sends", "traceparent")

    def __init__(self, event: Stored) -> None:
        self.label = _label(event)
        """`unreadable` or `erased`, if the event is not a plain one; else empty."""
        self.id = event.id
        self.name = self.label or one_line(event.type)
        plain = not isinstance(event, UnreadableEvent | ErasedEvent)
        self.traceparent = event.meta.traceparent if plain else None
        self.json = one_line(event.model_dump_json()).encode()
        self.pending_sends = 0
        """The number of clients for which it is queued or being sent."""


def _label(event: Stored) -> Literal["unreadable", "erased", ""]:
    if isinstance(event, UnreadableEvent):
        return "unreadable"
    return "erased" if isinstance(event, ErasedEvent) else ""


class UnsentBytes:
    """A counter of the bytes of all unsent messages, each message counted once."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self._changed = asyncio.Event()

    def acquire(self, message: Message) -> None:
        """Count a message for one more client."""
        self.bytes += 0 if message.pending_sends else len(message.json)
        message.pending_sends += 1

    def release(self, message: Message) -> None:
        """Count a message for one client fewer."""
        message.pending_sends -= 1
        if not message.pending_sends:
            self.bytes -= len(message.json)
            self._changed.set()

    async def wait_for_capacity(self) -> None:
        """Wait until the unsent bytes are below the limit."""
        while self.bytes >= self.limit:
            self._changed.clear()
            await self._changed.wait()


class ClientQueue:
    """A client's queue of messages, bounded in messages and in bytes."""

    def __init__(self, event_filter: EventFilter, settings: Settings, unsent: UnsentBytes) -> None:
        self.event_filter = event_filter
        self.queued_bytes = 0
        """The bytes of the queued messages."""
        self.disconnect_reason = ""
        """Why the client must be disconnected; empty while it need not."""
        self._max_messages, self._max_bytes = (
            settings.api_client_queue,
            settings.api_client_queue_bytes,
        )
        self._unsent = unsent
        self._queue: deque[tuple[Cursor, Message]] = deque()
        self._changed = asyncio.Event()
        self._sending: Message | None = None

    def put(self, cursor: Cursor, message: Message) -> None:
        """Queue a message; if the queue is full, empty it and mark the client for disconnection."""
        if self.disconnect_reason:
            return
        queued_bytes = self.queued_bytes + len(message.json)
        if len(self._queue) >= self._max_messages:
            self.disconnect(f"more than {self._max_messages} messages were left unread")
        elif self.queued_bytes and queued_bytes > self._max_bytes:
            self.disconnect(
                f"more than {self._max_bytes} bytes (API_CLIENT_QUEUE_BYTES) were left unread"
            )
        else:
            self.queued_bytes = queued_bytes
            self._unsent.acquire(message)
            self._queue.append((cursor, message))
            self._changed.set()

    def disconnect(self, reason: str) -> None:
        """Empty the queue and mark the client for disconnection: it can resume from the log."""
        self.disconnect_reason = reason
        while self._queue:
            self._unsent.release(self._queue.popleft()[1])
        self.queued_bytes = 0
        self._changed.set()

    async def get(self) -> tuple[Cursor, Message] | None:
        """Return the next message when there is one; None if the client must be disconnected.

        The previous message counts as sent.
        """
        self.end_send()
        while not self._queue:
            if self.disconnect_reason:
                return None
            self._changed.clear()
            await self._changed.wait()
        cursor, self._sending = self._queue.popleft()
        self.queued_bytes -= len(self._sending.json)
        return cursor, self._sending

    def begin_send(self, message: Message) -> None:
        """Count a message that is sent without being queued."""
        self.end_send()
        self._unsent.acquire(message)
        self._sending = message

    def end_send(self) -> None:
        """Release the message that was sent."""
        if self._sending is not None:
            self._unsent.release(self._sending)
            self._sending = None

    def close(self) -> None:
        """Release all messages."""
        self.end_send()
        self.disconnect(self.disconnect_reason)


def longest_queue(clients: set[ClientQueue]) -> ClientQueue | None:
    """Return the client with the most queued bytes; None if no message is queued."""
    found = max(clients, key=lambda client: client.queued_bytes, default=None)
    return found if found is not None and found.queued_bytes else None
