"""Uvicorn's HTTP and WebSocket protocols, with limits on connections, headers and messages.

`serving.py` passes both classes to uvicorn. Another server has limits of its own.
"""

from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from ..core.units import Seconds
from .connection_limiter import connection_limiter
from .errors import POLICY_VIOLATION
from .protocol_errors import INVALID_HANDSHAKE, INVALID_HTTP, error_response

MAX_HEADER_BYTES = 65_536  # bytes
MAX_DISCARDED_BYTES = 16_777_216  # of a rejected body: they are read and dropped, so that the client receives the response
INVALID_PAYLOAD, MESSAGE_TOO_BIG = 1007, 1009  # close codes of RFC 6455
FRAME_OVERHEAD = 64  # bytes of memory for a frame, besides its content


class LimitedHttpProtocol(HttpToolsProtocol):
    """HTTP/1.1, with limits on headers, on the rest of a rejected body, and on idle connections."""

    network = ""
    _idle_since: Seconds | None = None
    _received = 0  # bytes since the end of the last request

    @property
    def idle_since(self) -> Seconds | None:
        """The loop time in seconds since which no request is in progress; None if one is."""
        return self._idle_since

    def connection_made(self, transport: Any) -> None:
        """Accept the connection, or answer 503 if a limit is reached."""
        super().connection_made(transport)
        self._open_cycles: list[Any] = []
        self._idle_since = self.loop.time()
        if refusal := connection_limiter().add(self, self.client[0] if self.client else ""):
            self._refuse(503, f"{refusal} Try again later.")

    def connection_lost(self, exc: Exception | None) -> None:
        """Disconnect all pipelined requests of the connection; uvicorn disconnects only the last."""
        connection_limiter().discard(self)
        super().connection_lost(exc)
        for cycle in self._open_cycles:
            cycle.disconnected = True
            cycle.message_event.set()

    def data_received(self, data: bytes) -> None:
        """Parse received bytes, and count them while no request is in progress."""
        if self._idle_since is not None:
            if self.timeout_keep_alive_task is not None and not self._body_pending:
                self._idle_since = self.loop.time()  # the start of another request
            self._received += len(data)
        super().data_received(data)
        if self._idle_since is not None and self._received > MAX_HEADER_BYTES:
            self._enforce_size()

    def _enforce_size(self) -> None:
        """Close the connection if headers, or the rest of a rejected body, are too long."""
        if not self._body_pending:
            self._refuse(
                431,
                f"headers: they are longer than {MAX_HEADER_BYTES} bytes; send fewer or shorter ones",
            )
        elif self._received > MAX_DISCARDED_BYTES:
            self.transport.close()

    def on_headers_complete(self) -> None:
        """Start a request, and stop the idle timer."""
        last = self.cycle
        super().on_headers_complete()
        if self.cycle is not last:  # not a WebSocket's handshake
            self._idle_since = None
            self._open_cycles.append(self.cycle)

    def on_response_complete(self) -> None:
        """Start the idle timer, unless the next request was already received."""
        self._open_cycles.pop(0)  # responses are sent in the order of the requests
        super().on_response_complete()
        if self.cycle.response_complete:
            self._idle_since, self._received = self.loop.time(), 0

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over to the WebSocket protocol."""
        super().handle_websocket_upgrade()
        connection_limiter().upgrade(
            self, cast("LimitedWebSocketProtocol", self.transport.get_protocol())
        )

    def enforce_timeouts(self, now: Seconds) -> None:
        """Close a connection whose next request is not complete in time."""
        limit = connection_limiter().header_timeout
        if (
            self._idle_since is None
            or now - self._idle_since <= limit
            or self.transport.is_closing()
        ):
            return
        if self._received and not self._body_pending:
            self._refuse(
                408,
                f"headers: they were not complete within API_HEADER_TIMEOUT, {limit:g} s; send them again",
            )
        self.transport.close()

    def abort(self) -> None:
        """End at once."""
        self.transport.abort()

    @property
    def _body_pending(self) -> bool:
        """Whether the body of an answered request is still being received."""
        return bool(self.cycle) and self.cycle.more_body

    def send_400_response(self, msg: str) -> None:
        """Answer 400 to bytes that cannot be parsed."""
        self._refuse(400, INVALID_HTTP)

    def _refuse(self, status: int, sentence: str) -> None:
        if not self.transport.is_closing():
            self.transport.write(error_response(status, sentence))
            self.transport.close()


class LimitedWebSocketProtocol(WebSocketsSansIOProtocol):
    """A WebSocket, with limits on the time and memory of incomplete messages."""

    network = ""
    idle_since = None
    _frame_bytes = 0  # of an incomplete frame
    _message_bytes = 0  # of the frames of an incomplete message
    _acquired = 0  # bytes, from `unfinished_messages`
    _unfinished_since: Seconds | None = None
    """The loop time in seconds since which a message is incomplete."""

    def connection_made(self, transport: Any) -> None:
        """Start the timer of the handshake, which a request with a body never completes."""
        super().connection_made(transport)
        self._opened = self.loop.time()

    def connection_lost(self, exc: Exception | None) -> None:
        """Release the connection and its memory."""
        connection_limiter().discard(self)
        connection_limiter().unfinished_messages.release(self._acquired)
        self._acquired = 0
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse received bytes, and account for an incomplete message."""
        self._frame_bytes += len(data)
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            self.transport.write(error_response(400, INVALID_HANDSHAKE))
            self.transport.close()
        if not self.transport.is_closing():
            self._account()

    def handle_cont(self, event: Any) -> None:
        """Handle a continuation frame of a message."""
        self._add_frame(event)
        super().handle_cont(event)

    def handle_text(self, event: Any) -> None:
        """Handle the first frame of a text message."""
        self._add_frame(event)
        super().handle_text(event)

    def handle_bytes(self, event: Any) -> None:
        """Handle the first frame of a binary message."""
        self._add_frame(event)
        super().handle_bytes(event)

    def handle_pong(self, event: Any) -> None:
        """Handle a pong of the client."""
        self._frame_bytes = 0
        super().handle_pong(event)

    def handle_ping(self) -> None:
        """Answer a ping of the client."""
        self._frame_bytes = 0
        super().handle_ping()

    def handle_connect(self, event: Any) -> None:
        """Open the WebSocket: the received bytes were headers."""
        self._frame_bytes = 0
        super().handle_connect(event)

    def send_receive_event_to_app(self) -> None:
        """Pass a complete message to the application; close the connection if text is not UTF-8."""
        self._message_bytes, self._unfinished_since = 0, None
        if self.curr_msg_data_type == "text" and not _is_utf8(self.frames):
            self._fail(INVALID_PAYLOAD, "message: it is not UTF-8; send JSON as text")
            return
        super().send_receive_event_to_app()

    def enforce_timeouts(self, now: Seconds) -> None:
        """Close a connection whose handshake or message is not complete in time."""
        if not self.handshake_complete and now - self._opened > connection_limiter().header_timeout:
            self.transport.close()
        limit = connection_limiter().body_timeout
        if self._unfinished_since is not None and now - self._unfinished_since > limit:
            self._fail(
                POLICY_VIOLATION, f"a message was not complete within API_BODY_TIMEOUT, {limit:g} s"
            )

    def abort(self) -> None:
        """End at once."""
        self.transport.abort()

    def _add_frame(self, frame: Any) -> None:
        self._frame_bytes = 0
        self._message_bytes += len(frame.data) + FRAME_OVERHEAD

    def _account(self) -> None:
        """Acquire memory for the incomplete message; close the connection if there is none."""
        held, unfinished = (
            self._frame_bytes + self._message_bytes,
            connection_limiter().unfinished_messages,
        )
        unfinished.release(self._acquired)
        self._acquired = held
        if held:
            self._unfinished_since = self._unfinished_since or self.loop.time()
        else:
            self._unfinished_since = None
        if not unfinished.try_acquire(held):
            self._acquired = 0
            self._fail(MESSAGE_TOO_BIG, "too many incomplete messages (API_MAX_INTAKE_BYTES)")

    def _fail(self, code: int, reason: str) -> None:
        if self.close_sent or self.transport.is_closing():
            return
        self.conn.fail(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.transport.close()


def _is_utf8(frames: list[bytes]) -> bool:
    try:
        b"".join(frames).decode()
    except UnicodeDecodeError:
        return False
    return True
