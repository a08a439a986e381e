"""The door WebSocket: each message gets one answer in time, and what is acknowledged can be read."""

import io
import json
import time
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import takewhile

from .fault import Account, Fault
from .frames import CLOSE, PING, PONG, TEXT, Frame, Message, Talk, messages
from .judge import in_time, is_sentence
from .ledger import Json, Ledger
from .wire import Address, Piece, connected, send

OPENED = b"HTTP/1.1 101 "
CLOSES = {1000, 1001, 1002, 1003, 1005, 1007, 1008, 1009, 1010, 1013}
"""Codes with which the service may close; 1011 is an error of its own."""
LAST = Frame(PING, b"the last one")
NORMAL_CLOSE = Frame(CLOSE, (1000).to_bytes(2))


@dataclass
class Heard:
    """What the service answered to a whole conversation."""

    head: bytes = b""
    replies: list[Json] = field(default_factory=list[Json])
    code: int | None = None
    """With which the service closed; 1005 if it did so without a close frame."""
    slowest: float = 0.0


@dataclass(frozen=True)
class WebSocket:
    """Talks, and judges the answers."""

    address: Address
    ledger: Ledger
    account: Account

    def attempt(self, talk: Talk) -> None:
        """Have one conversation.

        Raises:
            Fault: the service did not do what it must.
        """
        self.account.try_one("conversations")
        self.account.tried["frames"] += len(talk.frames)
        heard = in_time(lambda: self._talk(talk), lambda heard: heard.slowest, self.account)
        status = heard.head[9:12].decode("latin-1") or "ended"
        self.account.count(f"ws {status}")
        if status.startswith("5"):
            raise Fault(f"handshake {status}", f"{heard.head[:300]!r}")
        if heard.code is not None:
            self.account.count(f"ws close {heard.code}")
            if heard.code not in CLOSES:
                raise Fault(f"close {heard.code}", "no client may see this code")
        if heard.head.startswith(OPENED) and talk.ending == "close":
            self._compare(talk, heard)

    def _compare(self, talk: Talk, heard: Heard) -> None:
        """See that each whole message has its answer, as long as the connection was open."""
        sent = messages(talk.frames)
        if len(heard.replies) != len(sent) and heard.code is None:
            raise Fault("answers", f"{len(sent)} messages got {len(heard.replies)} answers")
        for message, reply in zip(sent, heard.replies, strict=False):
            if "ack" in reply:
                self.account.count("ws ack")
                self.ledger.accept(reply["ack"], _event(message, talk), new=False)
            else:
                self.account.count("ws error")
                if not is_sentence(reply["error"]):
                    raise Fault("a message's refusal is no sentence with its field", f"{reply!r}")

    def _talk(self, talk: Talk) -> Heard:
        heard = Heard()
        with connected(self.address) as sock, sock.makefile("rb") as file:
            send(sock, [Piece(talk.handshake())])
            begun = time.monotonic()
            with suppress(ConnectionError):
                heard.head = b"".join(takewhile(bytes.strip, file))
            heard.slowest = time.monotonic() - begun
            if not heard.head.startswith(OPENED):
                return heard
            data = b"".join(frame.packed() for frame in talk.frames)
            if talk.ending == "close":
                send(sock, [Piece(data + LAST.packed())])
                _listen(file, len(messages(talk.frames)), heard)
                send(sock, [Piece(NORMAL_CLOSE.packed())])
            else:
                share = 2 / 3 if talk.ending == "half" else 1
                send(sock, [Piece(data[: int(len(data) * share)])])
        return heard


def _listen(file: io.BufferedReader, due: int, heard: Heard) -> None:
    """Read until all answers are there, and that to the last ping; or until the service closes."""
    begun, ponged = time.monotonic(), False
    while not ponged or len(heard.replies) < due:
        frame = _read(file)
        if frame.code == CLOSE:
            heard.code = int.from_bytes(frame.data[:2]) if frame.data else 1005
            return
        ponged = ponged or (frame.code == PONG and frame.data == LAST.data)
        if frame.code == TEXT:
            said = json.loads(frame.data)
            heard.replies += [said] if said.keys() & {"ack", "error"} else []
        heard.slowest = max(heard.slowest, time.monotonic() - begun)


def _read(file: io.BufferedReader) -> Frame:
    """Read a frame of the service; the end of the connection is a close frame without a code."""
    try:
        first, second = file.read(2)
        size = second & 127
        if size >= 126:
            size = int.from_bytes(file.read(2 if size == 126 else 8))
        return Frame(first & 15, file.read(size), masked=False)
    except (ConnectionError, ValueError):
        return Frame(CLOSE, masked=False)


def _event(message: Message, talk: Talk) -> Json:
    """Return the event that a message was accepted as, as far as its sender can know."""
    said = json.loads(message.data)
    event = {name: said[name] for name in ("id", "content", "meta") if name in said}
    return {**event, "type": "ws.message", "connection_id": seen_as(talk.client_id)}


def seen_as(client_id: str) -> str:
    """Return a client's name as the service sees it: what is no UTF-8 in an address is replaced."""
    return client_id.encode(errors="surrogatepass").decode(errors="replace")
