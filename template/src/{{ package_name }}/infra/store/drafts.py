"""Drafts: the text of an answer while a model generates it, for the WebSocket clients of its scope.

A draft is not stored, and nothing waits for it. It is collected for a moment and sent by one NOTIFY for all decisions of
the process; clients of this process get it without the database. Pieces that cannot be sent are dropped. They are
numbered, so a receiver detects a gap and leaves out the rest: a client has the beginning of a text, never one with a hole.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from uuid import uuid4

import logfire
from pydantic import BaseModel, ValidationError

from ...core.units import Scope, Seconds
from ..database import CLOSE_TIMEOUT, DatabaseUnavailable
from ..process.background import BackgroundTasks
from ..text import storable
from .dedicated import DedicatedConnection
from .notifier import Notifier

CHANNEL = "drafts"
NOTIFY = "SELECT pg_notify('drafts', piece) FROM unnest($1::text[]) AS piece"
NOTIFY_TIMEOUT: Seconds = 2.0
INTERVAL: Seconds = 0.05  # in which text is collected
MAX_DRAFT_LENGTH = 200_000  # characters of one decision's text; the rest is not sent
MAX_PIECE_LENGTH = 1_000  # characters: JSON takes up to six bytes for one, and a NOTIFY 8,000 bytes
MAX_PIECES = 16  # in one interval, of all drafts of the process
MAX_UNSENT_PIECES = 64  # while the database is slow; the oldest are dropped
CLIENT_SCOPE = "ws:"  # begins the scopes of WebSocket clients
MAX_SCOPE_LENGTH = 200  # characters; the API's limit for the id of a client is lower

type Receive = Callable[["Piece"], None]
"""Takes a piece at once, without waiting."""


class Piece(BaseModel):
    """A part of a draft, as it is sent between processes."""

    sender: str
    """The process that sends it, which ignores its own."""
    scope: Scope
    decision: str
    """The id of the decision's action."""
    attempt: str
    """One attempt at the decision."""
    number: int
    """Its position among the pieces of the attempt, from 0."""
    restart: bool
    """Whether all earlier text of the decision is void."""
    text: str


class Draft:
    """The text of one attempt at a decision."""

    def __init__(self, drafts: "Drafts", scope: Scope, decision: str) -> None:
        self.length = 0
        """The characters of its text."""
        self._drafts = drafts
        self._scope = scope
        self._decision = decision
        self._attempt = uuid4().hex
        self._parts: list[str] = []
        self._sent = 0  # characters
        self._number = 0
        self._restart = True  # an earlier attempt, maybe of another process, may have sent text
        self._taken = False

    @contextmanager
    def writing(self) -> Generator["Draft | None"]:
        """Provide the draft to one run at a time; None if another run has it.

        If the block fails, its text is void.
        """
        if self._taken:
            yield None
            return
        start, self._taken = self.length, True
        try:
            yield self
        except BaseException:
            if self.length > start:
                self.cut(start)
            raise
        finally:
            self._taken = False

    def add(self, text: str) -> None:
        """Append generated text."""
        text = storable(text)[: MAX_DRAFT_LENGTH - self.length]
        if text:
            self._parts.append(text)
            self.length += len(text)
            self._drafts.changed(self)

    def cut(self, length: int) -> None:
        """Keep the first `length` characters; if others were sent, all is sent again after a restart."""
        self._parts, self.length = ["".join(self._parts)[:length]], min(self.length, length)
        if self._sent > length:
            self._sent, self._restart = 0, True
        if self._restart:
            self._drafts.changed(self)

    @property
    def unsent(self) -> bool:
        """Whether there is something to send."""
        return self._restart or self._sent < self.length

    def take(self, most: int) -> list[Piece]:
        """Return the next pieces to send, at most `most`."""
        self._parts = ["".join(self._parts)]
        pieces: list[Piece] = []
        while self.unsent and len(pieces) < most:
            text = self._parts[0][self._sent : self._sent + MAX_PIECE_LENGTH]
            piece = Piece(
                sender=self._drafts.name,
                scope=self._scope,
                decision=self._decision,
                attempt=self._attempt,
                number=self._number,
                restart=self._restart,
                text=text,
            )
            pieces.append(piece)
            self._sent += len(text)
            self._number += 1
            self._restart = False
        return pieces


class Drafts:
    """Sends the drafts of this process, and receives those of all."""

    def __init__(self, connection: DedicatedConnection, notifier: Notifier) -> None:
        self.name = uuid4().hex
        self._connection = connection
        self._notifier = notifier
        self._changed: dict[Draft, None] = {}  # in the order of their turns
        self._unsent: deque[str] = deque(maxlen=MAX_UNSENT_PIECES)
        self._receivers: dict[Scope, list[Receive]] = {}
        self._background = BackgroundTasks()
        self._collecting: asyncio.Task[object] | None = None
        self._notifying: asyncio.Task[object] | None = None
        self._failing = False

    def open(self, scope: Scope, decision: str) -> Draft | None:
        """Return a draft for an attempt at a decision; None if its scope can have no WebSocket clients."""
        if decision and scope.startswith(CLIENT_SCOPE) and len(scope) <= MAX_SCOPE_LENGTH:
            return Draft(self, scope, decision)
        return None

    @contextmanager
    def receiving(self, scope: Scope, receive: Receive) -> Generator[None]:
        """Call `receive` with each piece of the scope's drafts, of all processes, during the block."""
        self._notifier.listen(CHANNEL, self._on_payload)
        self._receivers.setdefault(scope, []).append(receive)
        try:
            yield
        finally:
            self._receivers[scope].remove(receive)
            if not self._receivers[scope]:
                del self._receivers[scope]

    def changed(self, draft: Draft) -> None:
        """Send what is new in a draft, soon and in the background."""
        self._changed.setdefault(draft)
        if self._collecting is None or self._collecting.done():
            self._collecting = self._background.start(self._collect(), "collecting drafts")

    async def close(self) -> None:
        """Send what is left within `CLOSE_TIMEOUT`, and close the connection."""
        await self._background.close(CLOSE_TIMEOUT)
        await self._connection.close()

    async def _collect(self) -> None:
        while self._changed:
            await asyncio.sleep(INTERVAL)
            left = MAX_PIECES
            for draft in tuple(self._changed):
                if not left:
                    break
                del self._changed[draft]
                pieces = draft.take(left)
                left -= len(pieces)
                if draft.unsent:
                    self._changed[draft] = None  # behind the others
                for piece in pieces:
                    self._dispatch(piece)
                    self._unsent.append(piece.model_dump_json())
            if self._notifying is None or self._notifying.done():
                # A task of its own: a slow database must not delay the clients of this process.
                self._notifying = self._background.start(self._notify(), "sending drafts")

    async def _notify(self) -> None:
        while self._unsent:
            payloads = list(self._unsent)
            self._unsent.clear()
            try:
                await self._connection.fetch(NOTIFY, payloads)
                self._failing = False
            except DatabaseUnavailable as error:
                if not self._failing:
                    logfire.warn("Drafts do not reach other processes: {error}", error=repr(error))
                self._failing = True

    def _on_payload(self, payload: str) -> None:
        try:
            piece = Piece.model_validate_json(payload)
        except ValidationError as error:
            logfire.debug("A draft is ignored: {error}", error=repr(error))  # of another version
            return
        if piece.sender != self.name:
            self._dispatch(piece)

    def _dispatch(self, piece: Piece) -> None:
        for receive in self._receivers.get(piece.scope, ()):
            receive(piece)
