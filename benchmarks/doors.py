"""What taking an event in costs: `POST /events` beside a route that validates it and does one INSERT.

    make render && .tools/bin/uv run --project build/my-agent python -m benchmarks.doors

Both are uvicorn processes with the service's defaults on one PostgreSQL, and log at INFO into a pipe
that is read. Costs are CPU seconds of the process, user and system: a busy machine does not change them
much. The client's own are not in them.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from my_agent.infra.embedded import embedded_postgres
from my_agent.listening import bound

ROOT = Path(__file__).parent.parent
EVENT = {"type": "error.reported", "source": "bench", "service": "billing", "message": "x" * 250}
BATCH = 1_000
CLIENTS = (1, 32)
WANTED = 2.0  # times the cost of the plain route, at most
SERVED = {
    "service": ["-m", "my_agent", "serve", "--no-worker", "--port"],
    "plain": ["-m", "benchmarks.plain"],
}


class Door:
    """A server that takes events in."""

    def __init__(self, process: Process, port: int) -> None:
        self._process = process
        self._port = port

    def cpu(self) -> float:
        """Return the CPU seconds that the process has used."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def ready(self) -> None:
        """Wait until it answers."""
        while self._process.returncode is None:
            try:
                await self.post("/events", [json.dumps(EVENT).encode()])
                return
            except OSError:
                await asyncio.sleep(0.1)
        raise SystemExit("A server ended before it was ready")

    async def post(self, path: str, bodies: list[bytes]) -> None:
        """Send requests one after the other on one connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
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
        """Return the CPU milliseconds that a request takes with so many clients at once."""
        mine = [json.dumps(EVENT).encode()] * (count // clients)
        await asyncio.gather(*(self.post("/events", mine[:20]) for _ in range(clients)))
        before = self.cpu()
        await asyncio.gather(*(self.post("/events", mine) for _ in range(clients)))
        return 1_000 * (self.cpu() - before) / (len(mine) * clients)

    async def batches(self, count: int) -> tuple[float, float]:
        """Return how many events a second batches bring, and how many in a second of its CPU."""
        body = json.dumps([EVENT] * BATCH).encode()
        await self.post("/events/batch", [body])
        before, begun = self.cpu(), time.monotonic()
        await self.post("/events/batch", [body] * count)
        events, seconds = BATCH * count, time.monotonic() - begun
        return events / seconds, events / (self.cpu() - before)


@asynccontextmanager
async def door(name: str, url: str) -> AsyncGenerator[Door]:
    """Run a server for the block."""
    with bound("127.0.0.1", 0) as sockets:
        port = sockets[0].getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, *SERVED[name], str(port)],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": url, "LOG_LEVEL": "INFO", "TIMERS": "{}"},
        stdout=PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    reading = asyncio.create_task(read(process))
    try:
        served = Door(process, port)
        await served.ready()
        yield served
    finally:
        process.terminate()
        await process.wait()
        await reading


async def read(process: Process) -> None:
    """Read what a server logs, as whatever collects logs would."""
    assert process.stdout
    while await process.stdout.read(65_536):
        pass


async def measure(url: str, rounds: int, count: int) -> bool:
    """Print the table, and return whether the target is reached."""
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    for name in SERVED:
        await connection.execute(f"DROP DATABASE IF EXISTS doors_{name} WITH (FORCE)")
        await connection.execute(f"CREATE DATABASE doors_{name}")
    await connection.close()
    base = url.rsplit("/", 1)[0]
    costs: dict[tuple[str, int], list[float]] = {}
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in SERVED}
    async with door("service", f"{base}/doors_service") as ours:
        async with door("plain", f"{base}/doors_plain") as plain:
            for _ in range(rounds):
                for name, served in (("service", ours), ("plain", plain)):
                    for clients in CLIENTS:
                        cost = await served.cost(clients, count)
                        costs.setdefault((name, clients), []).append(cost)
                    rates[name].append(await served.batches(max(1, count // 100)))
    return report(costs, rates)


def report(
    costs: dict[tuple[str, int], list[float]], rates: dict[str, list[tuple[float, float]]]
) -> bool:
    """Print medians of the rounds, and the medians of the ratios within a round."""
    reached = True
    print("| work | unit | service | plain route | ratio |\n|---|---|---|---|---|")
    for clients in CLIENTS:
        ours, plain = costs["service", clients], costs["plain", clients]
        ratio = statistics.median(a / b for a, b in zip(ours, plain, strict=True))
        reached = reached and ratio <= WANTED
        print(
            f"| `POST /events`, {clients} at once | ms of CPU | {statistics.median(ours):.2f}"
            f" | {statistics.median(plain):.2f} | {ratio:.2f} |"
        )
    for place, unit in enumerate(("events a second", "events in a second of CPU")):
        ours, plain = ([each[place] for each in rates[name]] for name in ("service", "plain"))
        ratio = statistics.median(a / b for a, b in zip(ours, plain, strict=True))
        print(
            f"| batches of {BATCH:,} | {unit} | {statistics.median(ours):,.0f}"
            f" | {statistics.median(plain):,.0f} | {ratio:.2f} |"
        )
    return reached


def main() -> None:
    """Measure, and exit with 1 if a request costs more than it may."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=2_000)
    parser.add_argument("--url", help="A PostgreSQL server; otherwise one of the benchmark's own.")
    options = parser.parse_args()
    if options.url:
        reached = asyncio.run(measure(options.url, options.rounds, options.requests))
    else:
        with embedded_postgres(ROOT / "build" / "bench") as url:
            reached = asyncio.run(measure(url, options.rounds, options.requests))
    raise SystemExit(0 if reached else 1)


if __name__ == "__main__":
    main()
