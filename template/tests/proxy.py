"""A TCP proxy that can lose packets: connections stay open, and nothing comes through any more."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from sqlalchemy.engine import make_url


@dataclass
class Proxy:
    """Stands before a server on a port of its own."""

    host: str
    port: int
    address: int = 0
    silent_from_now: bool = False
    """Whether new connections are silent, too."""
    _pipes: "list[Pipe]" = field(default_factory=list["Pipe"])

    def url_of(self, url: str) -> str:
        """The URL of the server by way of the proxy."""
        through = make_url(url).set(host="127.0.0.1", port=self.address)
        return through.render_as_string(hide_password=False)

    def silence(self) -> None:
        """Lose all packets of the connections that there are, in both directions."""
        for pipe in self._pipes:
            pipe.silent = True

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass one connection through for as long as it lasts."""
        pipe = Pipe(self.silent_from_now)
        self._pipes.append(pipe)
        there, back = await asyncio.open_connection(self.host, self.port)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(pipe.pump(reader, back))
                group.create_task(pipe.pump(there, writer))
        finally:
            back.close()
            writer.close()


@dataclass
class Pipe:
    """One connection's two directions."""

    silent: bool

    async def pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Forward what comes, the end too; a silent pipe swallows all of it."""
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65_536):
                if not self.silent:
                    sink.write(data)
                    await sink.drain()
        if not self.silent:
            sink.close()


@asynccontextmanager
async def proxy_to(url: str) -> AsyncGenerator[Proxy]:
    """Run a proxy before the server of a URL for the block."""
    where = make_url(url)
    proxy = Proxy(where.host or "127.0.0.1", where.port or 5432)
    serving: set[asyncio.Task[None]] = set()

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(proxy.serve(reader, writer))
        serving.add(task)
        task.add_done_callback(serving.discard)

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    proxy.address = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
