"""Conversations over a WebSocket, frame by frame, as no library would send them."""

import json
from dataclasses import dataclass
from urllib.parse import quote

from hypothesis import strategies as st

from .events import encoded
from .hostile import (
    combined,
    ids,
    json_object,
    json_texts,
    json_values,
    metas,
    mostly,
    storable_texts,
    texts,
)
from .request import Header, header_value
from .requests import CURSORS, KINDS

CONTINUED, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
KEYS = (b"Bearer wrong", b"bearer fuzz", b"fuzz", b"", b"Basic fuzz")


@dataclass(frozen=True)
class Frame:
    """One frame of a client."""

    code: int
    data: bytes = b""
    final: bool = True
    masked: bool = True
    reserved: int = 0
    announced: int | None = None
    """How many bytes it says it has, if that is not so."""

    @property
    def is_wrong(self) -> bool:
        """Whether nothing that follows is heard: it is against the protocol, or a close."""
        known = self.code in {CONTINUED, TEXT, BINARY, PING, PONG}
        small = self.code < CLOSE or (len(self.data) <= 125 and self.final)
        return not (known and small and self.masked) or bool(self.reserved or self.announced)

    def packed(self) -> bytes:
        """Return it as bytes."""
        size = len(self.data) if self.announced is None else self.announced
        first = bytes([self.final << 7 | self.reserved << 4 | self.code])
        bit = self.masked << 7
        if size < 126:
            length = bytes([bit | size])
        elif size < 2**16:
            length = bytes([bit | 126]) + size.to_bytes(2)
        else:
            length = bytes([bit | 127]) + size.to_bytes(8)
        if not self.masked:
            return first + length + self.data
        mask = b"\x0f\xf0\x5a\xa5"
        repeated = mask * (len(self.data) // 4 + 1)
        masked = bytes(a ^ b for a, b in zip(self.data, repeated, strict=False))
        return first + length + mask + masked


@dataclass(frozen=True)
class Talk:
    """A handshake and what follows it."""

    client_id: str
    query: str
    headers: tuple[Header, ...]
    frames: tuple[Frame, ...]
    ending: str
    """`close` (as it should), `drop`, or `half` (in the middle of a frame)."""

    def handshake(self) -> bytes:
        """Return the request that opens it."""
        name = quote(self.client_id.encode(errors="surrogatepass"), safe="")
        key = b"dGhlIHNhbXBsZSBub25jZQ=="
        lines = [f"GET /ws/{name}{self.query} HTTP/1.1".encode(), b"Host: fuzz"]
        lines += [b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Key: " + key]
        lines += [b"Sec-WebSocket-Version: 13"]
        lines += [name + b": " + value for name, value in self.headers]
        return b"\r\n".join(lines) + b"\r\n\r\n"


@dataclass(frozen=True)
class Message:
    """What comes as one message."""

    code: int
    data: bytes


def messages(frames: tuple[Frame, ...]) -> list[Message]:
    """Return the whole messages, up to the first frame that is against the protocol, or a close."""
    found: list[Message] = []
    begun: Message | None = None
    for frame in frames:
        if frame.is_wrong or (frame.code < CLOSE and (frame.code == CONTINUED) == (begun is None)):
            break
        if frame.code < CLOSE:
            begun = (
                Message(begun.code, begun.data + frame.data)
                if begun
                else Message(frame.code, frame.data)
            )
            if frame.final:
                found.append(begun)
                begun = None
    return found


def split(data: bytes, sizes: list[int]) -> tuple[Frame, ...]:
    """Return a text message in several frames, with a ping between."""
    parts = [data[at : at + sizes[0]] for at in range(0, len(data), sizes[0])] or [b""]
    parts = [*parts[:20], b"".join(parts[20:])] if len(parts) > 20 else parts
    frames = [Frame(CONTINUED if n else TEXT, part, final=False) for n, part in enumerate(parts)]
    return (*frames, Frame(PING, b"still there"), Frame(CONTINUED, b"", final=True))


fields = st.lists(
    st.one_of(
        st.tuples(st.just('"content"'), st.one_of(json_texts, json_values)),
        st.tuples(st.just('"id"'), st.one_of(ids.map(json.dumps), json_values)),
        st.tuples(st.just('"meta"'), metas),
        st.tuples(json_texts, json_values),
    ),
    max_size=3,
)
usual = storable_texts.map(lambda text: json_object([('"content"', json.dumps(text))]))
odd = st.one_of(
    combined(lambda text, more: json_object([('"content"', text), *more]), json_texts, fields),
    json_texts.map(lambda text: json_object([('"content"', text)])),
    fields.map(json_object),
    json_values,
    texts,
)
contents = mostly(usual, odd, 2).map(encoded)
good = st.one_of(
    contents.map(lambda data: (Frame(TEXT, data),)),
    contents.map(lambda data: (Frame(TEXT, data),)),
    st.builds(split, contents, st.lists(st.integers(1, 500), min_size=1, max_size=1)),
    st.binary(max_size=100).map(lambda data: (Frame(BINARY, data),)),
    st.binary(max_size=125).map(lambda data: (Frame(PING, data),)),
    st.binary(max_size=125).map(lambda data: (Frame(PONG, data),)),
)
bad = st.one_of(
    st.builds(Frame, st.integers(3, 7), st.binary(max_size=9)),
    st.builds(Frame, st.integers(11, 15), st.binary(max_size=9)),
    st.builds(Frame, st.just(TEXT), contents, masked=st.just(False)),
    st.builds(Frame, st.just(TEXT), contents, reserved=st.integers(1, 7)),
    st.builds(Frame, st.just(CONTINUED), contents),
    st.builds(Frame, st.just(PING), st.just(b"x" * 126)),
    st.builds(Frame, st.just(PING), final=st.just(False)),
    st.builds(Frame, st.just(TEXT), st.just(b"\xff\xfe\xed\xa0\x80")),
    st.builds(
        Frame, st.just(CLOSE), st.sampled_from((b"\x00", b"\x03\xe8\xff", b"\x00\x00", b"\x03\xed"))
    ),
    st.builds(Frame, st.just(TEXT), announced=st.sampled_from((2**62, 2**63, 2**31, 5_000_000))),
)
several = st.lists(good, max_size=4).map(lambda groups: sum(groups, ()))
many = mostly(several, combined(lambda frames, last: (*frames, last), several, bad))


def _headers(key: bytes, more: list[Header]) -> tuple[Header, ...]:
    return ((b"Authorization", key), *more)


extra = st.one_of(
    st.sampled_from((b"permessage-deflate; server_max_window_bits=99", b"x; y=z", b"")).map(
        lambda v: (b"Sec-WebSocket-Extensions", v)
    ),
    texts.map(lambda text: (b"Sec-WebSocket-Protocol", header_value(text))),
    texts.map(lambda text: (b"Origin", header_value(text))),
    st.sampled_from(KINDS).map(lambda kind: (b"Content-Type", kind.encode())),
    st.just((b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")),
)
headers = combined(
    _headers,
    mostly(st.just(b"Bearer fuzz"), st.sampled_from(KEYS), 10),
    mostly(st.just(list[Header]()), st.lists(extra, max_size=2)),
)
names = mostly(storable_texts, texts.filter(lambda text: len(text) < 1_000))
cursors = st.one_of(
    st.sampled_from(CURSORS).map(lambda cursor: "?after=" + quote(cursor)),
    texts.map(lambda text: "?after=" + quote(text.encode(errors="surrogatepass"))),
)
queries = mostly(st.sampled_from(("", "?after=0", "?after=1:1:~1:1:~0.0")), cursors, 6)
endings = st.sampled_from(("close", "close", "close", "drop", "half"))
talks = st.builds(Talk, names, queries, headers, many, endings)


def shown(talk: Talk) -> str:
    """Return a conversation for people, and so that it can be repeated."""
    data = b"".join(frame.packed() for frame in talk.frames)
    said = "\n".join(f"  {frame!r:.400}" for frame in talk.frames)
    return f"{talk.handshake()!r:.1500}\n{said}\n  then {talk.ending}; bytes {data!r:.600}"
