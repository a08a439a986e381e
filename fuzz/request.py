"""A request as bytes, and in what way they are sent."""

import json
from dataclasses import dataclass, replace
from urllib.parse import quote

from .wire import Piece

KEY = "fuzz"
DEFAULTS = ((b"Host", b"fuzz"), (b"Authorization", b"Bearer fuzz"), (b"Connection", b"close"))

type Header = tuple[bytes, bytes]


@dataclass(frozen=True)
class Request:
    """One request, and how it is sent."""

    method: str
    target: bytes
    headers: tuple[Header, ...] = DEFAULTS
    body: bytes = b""
    way: str = "whole"
    """`whole`, `chunked`, `slow`, `half` (it ends in the middle), `twice` (pipelined) or `crowd` (among half ones)."""
    cut: float = 0.5
    """Where it ends, as a share of its bytes, or in how large pieces it comes."""
    wrong: bool = False
    """Whether it is no HTTP, so that the connection may simply end."""

    @property
    def path(self) -> str:
        """The path, without a query."""
        return self.target.partition(b"?")[0].decode("latin-1")

    def half(self) -> list[Piece]:
        """Return the beginning of what is sent."""
        [whole] = replace(self, way="whole").pieces()
        return [Piece(whole.data[: max(1, int(len(whole.data) * self.cut))])]

    def pieces(self) -> list[Piece]:
        """Return what is sent."""
        whole = self._head() + (_chunked(self.body) if self.way == "chunked" else self.body)
        match self.way:
            case "half":
                return self.half()
            case "slow":
                size = max(1, int(len(whole) * self.cut))
                parts = [whole[at : at + size] for at in range(0, len(whole), size)]
                return [Piece(part, 0.03) for part in parts[:5]] + [Piece(b"".join(parts[5:]))]
            case "twice":
                return [Piece(whole.replace(b"Connection: close\r\n", b"")), Piece(whole)]
            case _:
                return [Piece(whole)]

    def _head(self) -> bytes:
        lines = [self.method.encode("latin-1", "replace") + b" " + self.target + b" HTTP/1.1"]
        lines += [name + b": " + value for name, value in self.headers]
        if self.way == "chunked":
            lines.append(b"Transfer-Encoding: chunked")
        elif self.body or self.method in {"POST", "PUT", "PATCH"}:
            lines.append(b"Content-Length: %d" % len(self.body))
        return b"\r\n".join(lines) + b"\r\n\r\n"


def _chunked(body: bytes) -> bytes:
    parts = [body[at : at + 999] for at in range(0, len(body), 999)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def header_value(text: str) -> bytes:
    """Return a text as a header may carry it, without the ends of lines."""
    raw = text.encode(errors="surrogatepass")[:2_000]
    return raw.replace(b"\r", b"").replace(b"\n", b"").replace(b"\0", b"")


def in_path(text: str) -> str:
    """Return a text as one part of a path."""
    return quote(text.encode(errors="surrogatepass")[:2_000], safe="")


@dataclass(frozen=True)
class Raw(Request):
    """Bytes that are no request."""

    def pieces(self) -> list[Piece]:
        """Return what is sent."""
        return [Piece(self.body)]


def shown(request: Request) -> str:
    """Return a request for people, and so that it can be repeated."""
    data = b"".join(piece.data for piece in request.pieces())
    cut = f"{data[:1_500]!r}{f' ... {len(data)} bytes' if len(data) > 1_500 else ''}"
    return json.dumps(request.way) + " " + cut
