"""The way from the service to its database, on which connections can become silent."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

FORGOTTEN = 60.0
"""Seconds after which the server ends a silent connection, as TCP keep-alive would. The service's end stays
silent until the service closes it."""
CHUNK = 65_536  # bytes


class _Link:
    """One connection of the service, and the one to the server that belongs to it."""

    def __init__(self, to_service: asyncio.StreamWriter, to_server: asyncio.StreamWriter) -> None:
        self.to_service = to_service
        self.to_server = to_server
        self.silent = False

    def silence(self) -> None:
        """Lose all bytes from now on, in both directions."""
        self.silent = True
        asyncio.get_running_loop().call_later(FORGOTTEN, self.to_server.transport.abort)

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry bytes in one direction until their sender closes the connection."""
        with suppress(ConnectionError):
            while data := await reader.read(CHUNK):
                if not self.silent:
                    writer.write(data)
                    await writer.drain()


class Proxy:
    """Forwards connections to the server's present port."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self._links: set[_Link] = set()

    def silence(self) -> int:
        """Silence all connections of this moment and return how many; new ones work."""
        speaking = [link for link in self._links if not link.silent]
        for link in speaking:
            link.silence()
        return len(speaking)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection until both of its ends are closed."""
        try:
            answers, to_server = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(writer, to_server)
        self._links.add(link)
        there = asyncio.create_task(link.carry(reader, to_server))
        back = asyncio.create_task(link.carry(answers, writer))
        try:
            await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
            if link.silent:  # neither end notices that the other closes
                await asyncio.wait({there, back})
        finally:
            there.cancel()
            back.cancel()
            to_server.transport.abort()
            writer.transport.abort()
            self._links.discard(link)


@asynccontextmanager
async def proxying(target: int) -> AsyncGenerator[Proxy]:
    """Forward connections for the block."""
    proxy = Proxy(target)
    serving: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(proxy.serve(reader, writer))
        serving.add(task)
        task.add_done_callback(serving.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
