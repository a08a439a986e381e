"""Rows: what taking an event in costs, beside a route that validates it and does one INSERT (`plain.py`).

Both are uvicorn processes with the service's defaults on one PostgreSQL, and log at INFO into a pipe
that is read. Costs are CPU seconds of the process: a busy machine changes them less than times, and
changes both alike, as they take turns. The client's own are not in them.
"""

import asyncio
import json
import statistics
import time
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from .rows import Place, Row
from .service import HOST, cpu, port_of, until_answered

CLIENTS = {
    1: "POST /events, 1 client: CPU beside a bare route",
    32: "POST /events, 32 clients: CPU beside a bare route",
}
BATCHES = "batches of 1,000: events/s"
ROWS = (
    *(Row(title, "x", 2.0) for title in CLIENTS.values()),
    Row(BATCHES, "events/s", 10_000, at_least=True),
)

EVENT = {"type": "error.reported", "source": "bench", "service": "billing", "message": "x" * 250}
BATCH = 1_000
BATCHES_SENT = 20
REQUESTS = 960  # of a turn
TURNS = 5  # of each in a round
WARM_UP = 20  # requests of each client before a turn counts

SERVICE = ("-m", "my_agent", "serve", "--no-worker", "--port", "0")
PLAIN = ("-m", "benchmarks.plain", "0")


async def measure(place: Place) -> dict[str, float]:
    """Let the service and the bare route take turns; then send batches to the service."""
    async with door(place, *SERVICE) as service, door(place, *PLAIN) as plain:
        ratios: dict[str, list[float]] = {title: [] for title in CLIENTS.values()}
        for _ in range(TURNS):
            for clients, title in CLIENTS.items():
                count = place.count(REQUESTS)
                ours, bare = [await each.cost(clients, count) for each in (service, plain)]
                ratios[title].append(ours / bare)
        rate = await service.batches(max(1, round(BATCHES_SENT * place.scale)))
    return {**{title: statistics.median(all_) for title, all_ in ratios.items()}, BATCHES: rate}


class Door:
    """A server that takes events in."""

    def __init__(self, process: Process, port: int) -> None:
        self._process = process
        self._port = port

    async def post(self, path: str, bodies: list[bytes]) -> None:
        """Send requests one after the other on one connection."""
        reader, writer = await asyncio.open_connection(HOST, self._port)
        head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        for body in bodies:
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            if not answer.startswith(b"HTTP/1.1 200"):
                raise SystemExit(f"{path} was refused: {answer.decode()}")
            length = answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length))
        writer.close()

    async def cost(self, clients: int, count: int) -> float:
        """Return the CPU seconds that a request takes with so many clients at once."""
        mine = [json.dumps(EVENT).encode()] * max(1, count // clients)
        warming = [self.post("/events", mine[:WARM_UP]) for _ in range(clients)]
        await asyncio.gather(*warming)
        before = cpu(self._process)
        await asyncio.gather(*(self.post("/events", mine) for _ in range(clients)))
        return (cpu(self._process) - before) / (len(mine) * clients)

    async def batches(self, count: int) -> float:
        """Return how many events a second come in batches."""
        body = json.dumps([EVENT] * BATCH).encode()
        await self.post("/events/batch", [body])
        begun = time.monotonic()
        await self.post("/events/batch", [body] * count)
        return BATCH * count / (time.monotonic() - begun)


@asynccontextmanager
async def door(place: Place, *arguments: str) -> AsyncGenerator[Door]:
    """Run a server on a database of its own for the block."""
    async with place.fresh() as url, place.started(*arguments, url=url) as (process, pipes):
        port = await port_of(pipes)
        await until_answered(process, port, "/openapi.json")
        yield Door(process, port)
