"""What one WebSocket client has not received yet of the text that a decision of its scope generates."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from typing import Any

from ..infra.store.drafts import Piece

MAX_UNSENT_LENGTH = 16_000  # characters; then the client gets no more of the text
REMEMBERED_ACTIONS = 16


class DraftQueue:
    """The unsent text of the current draft, which grows while the client does not read."""

    def __init__(self) -> None:
        self._acted: deque[str] = deque(maxlen=REMEMBERED_ACTIONS)
        self._decision = self._attempt = self._text = ""
        self._next = 0  # the number of the next piece
        self._restart = False
        self._changed = asyncio.Event()

    def put(self, piece: Piece) -> None:
        """Append a piece, unless an earlier one is missing or the decision has acted."""
        if piece.decision in self._acted:
            return
        same = piece.attempt == self._attempt
        if piece.number == 0 or (same and piece.restart):
            self._decision, self._attempt = piece.decision, piece.attempt
            self._restart, self._text = True, ""
        elif not same or piece.number != self._next:
            return
        if len(self._text) + len(piece.text) > MAX_UNSENT_LENGTH:
            return  # the following pieces do not fit to the last one either
        self._text += piece.text
        self._next = piece.number + 1
        self._changed.set()

    def end(self, decision: str) -> None:
        """Discard what is left of a decision, since its action follows."""
        self._acted.append(decision)
        if decision == self._decision:
            self._decision = self._attempt = self._text = ""
            self._restart = False

    async def messages(self) -> AsyncGenerator[dict[str, Any]]:
        """Yield the messages for the client: `restart` discards what it has of a decision, `delta` appends to it."""
        while True:
            while not (self._restart or self._text):
                self._changed.clear()
                await self._changed.wait()
            if self._restart:
                self._restart = False
                yield {"restart": self._decision}
            else:
                text, self._text = self._text, ""
                yield {"delta": text, "decision": self._decision}
