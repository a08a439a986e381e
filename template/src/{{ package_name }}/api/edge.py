"""What every request passes first: a limit on its size, and headers that browsers heed."""

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
]


class Edge:
    """Refuses bodies that are too large before anything reads them."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app = app
        self._max = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; anything but HTTP passes as it is."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *HEADERS]
            await send(message)

        messages = await self._read(receive)
        if messages is None:
            sentence = f"body: it is larger than {self._max} bytes; send less, or several requests"
            refusal = JSONResponse({"detail": sentence}, status_code=413)
            await refusal(scope, receive, send_with_headers)
            return

        async def replay() -> Message:
            return messages.pop(0) if messages else await receive()

        await self._app(scope, replay, send_with_headers)

    async def _read(self, receive: Receive) -> list[Message] | None:
        """Return the messages of the body, or None as soon as they are too much."""
        messages: list[Message] = []
        size, more = 0, True
        while more:
            message = await receive()
            messages.append(message)
            size += len(message.get("body", b""))
            if size > self._max:
                return None
            more = message.get("more_body", False)
        return messages
