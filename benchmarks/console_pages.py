"""Rows: the console's pages over HTTP from the service as shipped, and what an open page costs while events arrive.

The log is that of the rows of `console.py`. A time is that of a person's browser: from the request to the last byte, on a
connection that is kept. The CPU is that of the process which serves the pages; events are published by another.
"""

import asyncio
import statistics
import time
from asyncio import StreamReader, StreamWriter
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from urllib.parse import quote

import asyncpg

from .console import BOUND, EVENTS
from .console_log import ID_OF_BUSY_ACTION, fill
from .gate import Outcome, gate
from .rows import Place, Row
from .service import HOST, cpu, port_of, until_answered

CALLS = 40
RATE, SECONDS = 500, 15  # events a second, and for how long they are published
REFRESH = 3.0  # seconds between two reads of the first screen by an open page, at the most
STARTED = ("-m", "my_agent", "serve", "--no-worker", "--port", "0")

LARGE = "SELECT id FROM events WHERE length(payload::text) > 900000 ORDER BY seq DESC LIMIT 1"

PAGES = {
    "Now": "/console",
    "Scopes": "/console/scopes",
    "Scopes, a search in all names": "/console/scopes?search=no+such+scope",
    "a busy scope": "/console/scope?name=busy%3A3",
    "Decisions": "/console/decisions",
    "a decision": "/console/decision?id={action}",
    "Dead letters": "/console/dead-letters",
    "Dead letters by part of an error": "/console/dead-letters?error=overloaded",
    "Events": "/console/events",
    "Events, a text that none has": "/console/events?text=no+such+text",
    "an event of 1 MB": "/console/event?id={large}",
    "Timers and workers": "/console/timers",
    "the confirmation of a retry of all": "/console/do/retry?subscriber=agent",
}
"""The address of each page."""

OPEN = {
    1: ("console, one open page at 500 events a second: CPU", 15.0),
    10: ("console, ten open pages at 500 events a second: CPU", 60.0),
}
"""By the number of open pages: the title of the row, and its bound in percent of one core."""


def _titles(page: str) -> tuple[str, str]:
    """Return the titles of a page's two rows."""
    return f"console, page of {page}: p50", f"console, page of {page}: p95"


ROWS = (
    *(Row(title, "ms", BOUND) for page in PAGES for title in _titles(page)),
    *(Row(title, "%", bound) for title, bound in OPEN.values()),
)


async def measure(place: Place) -> dict[str, float]:
    """Time each page, and then let pages follow events; code without a console has nothing to measure."""
    if not (place.side.source / "my_agent/console").exists():
        return {row.title: 0.0 for row in ROWS}
    url = await place.prepared("console", lambda url: fill(url, place.count(EVENTS)))
    figures = await _time_pages(place, url)
    async with place.fresh() as url, _serving(place, url) as (process, port):
        idle = await _share(place, process, port, url, pages=0)
        for pages, (title, _) in OPEN.items():
            figures[title] = await _share(place, process, port, url, pages) - idle
    return figures


@asynccontextmanager
async def _serving(place: Place, url: str) -> AsyncGenerator[tuple[Process, int]]:
    """Run the service with its console for the block."""
    async with place.started(*STARTED, url=url, CONSOLE="on") as (process, pipes):
        port = await port_of(pipes)
        await until_answered(process, port, "/console")
        yield process, port


async def _time_pages(place: Place, url: str) -> dict[str, float]:
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    action, large = [await connection.fetchval(each) for each in (ID_OF_BUSY_ACTION, LARGE)]
    await connection.close()
    figures = dict[str, float]()
    async with _serving(place, url) as (_, port), _connected(port) as browser:
        for page, address in PAGES.items():
            path = address.format(action=quote(action or ""), large=quote(large or ""))
            await browser.get(path)  # compiles its template
            times = [await browser.timed(path) for _ in range(place.count(CALLS))]
            typical, rare = _titles(page)
            figures |= {
                typical: statistics.median(times),
                rare: sorted(times)[int(0.95 * len(times))],
            }
    return figures


class Browser:
    """A client on a connection that is kept."""

    def __init__(self, reader: StreamReader, writer: StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def get(self, path: str) -> None:
        """Read a page to its last byte."""
        await self.send(path)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        if b" 200 " not in head.partition(b"\r\n")[0]:
            raise SystemExit(f"{path} was refused: {head.decode()}")
        await self._reader.readexactly(
            int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        )

    async def timed(self, path: str) -> float:
        """Return the milliseconds that a page takes."""
        begun = time.perf_counter()
        await self.get(path)
        return 1_000 * (time.perf_counter() - begun)

    async def send(self, path: str) -> None:
        """Send a request."""
        self._writer.write(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        await self._writer.drain()

    async def follow(self) -> None:
        """Read the live events of the first screen, for ever."""
        await self.send("/console/live")
        while await self._reader.read(65_536):
            pass


@asynccontextmanager
async def _connected(port: int) -> AsyncGenerator[Browser]:
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        yield Browser(reader, writer)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def _share(place: Place, process: Process, port: int, url: str, pages: int) -> float:
    """Return the CPU of the service in percent of a core while events arrive and pages are open."""
    count = max(RATE, round(RATE * SECONDS * place.scale))
    open_pages = [asyncio.create_task(_open_page(port)) for _ in range(pages)]
    before = cpu(process)
    outcome = await place.run("console_pages", "publish_steadily", url, count)
    used = cpu(process) - before
    for each in open_pages:
        each.cancel()
    await asyncio.gather(*open_pages, return_exceptions=True)
    return 100 * used / (outcome.end - outcome.start)


async def _open_page(port: int) -> None:
    """Do what the first screen does in a browser: follow the events, and read its state again."""
    async with _connected(port) as stream, _connected(port) as browser, asyncio.TaskGroup() as both:
        both.create_task(stream.follow())
        while True:
            await browser.get("/console")
            await asyncio.sleep(REFRESH)


async def publish_steadily(url: str, count: int) -> Outcome:
    """Publish so many events at the rate, ten at a time."""
    from .contenders.reflex import events, opened

    async with opened(url) as store:
        made = events(count)
        start = await gate()
        for number in range(0, count, 10):
            await asyncio.sleep(max(0.0, start + number / RATE - time.monotonic()))
            await store.publish_many(made[number : number + 10])
        return Outcome(start, time.monotonic(), count)
