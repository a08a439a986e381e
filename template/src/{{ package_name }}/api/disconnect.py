"""Cancel reads whose client disconnects before the response."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

CLIENT_CLOSED_REQUEST = 499  # nginx's status, for traces and logs: the client is gone


class CancelOnDisconnectRoute(APIRoute):
    """A route whose GET, with its SQL statement, is cancelled when the client disconnects."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of a request."""
        handle = super().get_route_handler()
        if self.methods != {"GET"}:
            return handle

        async def handle_while_connected(request: Request) -> Response:
            return await _while_connected(request, handle(request))

        return handle_while_connected


async def _while_connected(request: Request, answer: Coroutine[Any, Any, Response]) -> Response:
    answering = asyncio.create_task(answer)
    leaving = asyncio.create_task(_left(request))
    try:
        await asyncio.wait([answering, leaving], return_when=asyncio.FIRST_COMPLETED)
        if answering.done():
            return answering.result()
        leaving.result()  # raises if the body that it read exceeds a limit
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    finally:
        answering.cancel()
        leaving.cancel()
        await asyncio.gather(answering, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
