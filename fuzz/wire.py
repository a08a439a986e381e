"""HTTP by hand: bytes as they are, in pieces and halves, and answers with the time that they took."""

import io
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from typing import cast

PATIENCE = 12.0  # seconds after which an answer is given up; API_HEADER_TIMEOUT is 10

type Address = tuple[str, int]


@dataclass(frozen=True)
class Answer:
    """What came back, and how many seconds after the last byte was sent."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float


@dataclass(frozen=True)
class Piece:
    """Some bytes, and the seconds to wait before they are sent."""

    data: bytes
    pause: float = 0.0


class _Kept:
    """A socket, and its file, for an `HTTPResponse` that is not the last one of the connection."""

    def __init__(self, file: io.BufferedReader) -> None:
        self.read, self.readline, self.readinto = file.read, file.readline, file.readinto

    def makefile(self, *_: object) -> "_Kept":
        """Return what it reads from."""
        return self

    def flush(self) -> None:
        """Do nothing: it only reads."""

    def close(self) -> None:
        """Leave the connection open for the next answer."""


def connected(address: Address) -> closing[socket.socket]:
    """Open a connection for a block."""
    sock = socket.create_connection(address, timeout=PATIENCE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return closing(sock)


def send(sock: socket.socket, pieces: Sequence[Piece]) -> None:
    """Send all pieces, as far as the other side takes them."""
    with suppress(ConnectionError):  # it answered, and closed before all was sent
        for piece in pieces:
            time.sleep(piece.pause)
            sock.sendall(piece.data)


def exchange(address: Address, pieces: Sequence[Piece], method: str, most: int = 1) -> list[Answer]:
    """Send a request and return the answers, at most so many; none if the connection ends instead.

    Raises:
        TimeoutError: the service neither answered nor ended the connection.
    """
    with connected(address) as sock:
        send(sock, pieces)
        begun = time.monotonic()
        with sock.makefile("rb") as file:
            return list(_answers(file, method, begun, most))


def ask(address: Address, target: str, key: str = "") -> Answer:
    """Ask for an address as an honest client does.

    Raises:
        TimeoutError: there was no answer.
        ConnectionError: the connection ended instead.
    """
    line = f"GET {target} HTTP/1.1\r\nHost: fuzz\r\nConnection: close\r\n"
    secret = f"Authorization: Bearer {key}\r\n" if key else ""
    answers = exchange(address, [Piece(f"{line}{secret}\r\n".encode())], "GET")
    if not answers:
        raise ConnectionError(f"GET {target} got no answer")
    return answers[0]


def _answers(file: io.BufferedReader, method: str, begun: float, most: int) -> Iterator[Answer]:
    for _ in range(most):
        with suppress(ConnectionError):
            if (answer := _read(file, method, begun)) is not None:
                yield answer
                continue
        return


def _read(file: io.BufferedReader, method: str, begun: float) -> Answer | None:
    """Read one answer; None if the connection ends instead. Of a stream only the head is read."""
    response = HTTPResponse(cast("socket.socket", _Kept(file)), method=method)
    try:
        response.begin()
        headers = {name.lower(): value for name, value in response.getheaders()}
        endless = headers.get("content-type", "").startswith("text/event-stream")
        body = b"" if endless else response.read()
    except (HTTPException, ValueError):
        return None
    return Answer(response.status, headers, body, time.monotonic() - begun)
