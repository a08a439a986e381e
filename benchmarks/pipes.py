"""The pipes of a measured process: what it writes is read at once, as a log collector would."""

import asyncio
from asyncio import StreamReader
from asyncio.subprocess import Process
from collections import deque

CHUNK = 65_536  # bytes, as much as a pipe holds
KEPT = 20_000  # bytes of the last words, for the message of a failure


class Pipes:
    """Reads both pipes of a process to their end, and counts the lines."""

    def __init__(self, process: Process) -> None:
        assert process.stdout and process.stderr
        self.lines = 0
        """How many lines came so far."""
        self._marks: dict[bytes, asyncio.Event] = {}
        self._last: deque[bytes] = deque()
        self._tasks = [
            asyncio.create_task(self._read(pipe)) for pipe in (process.stdout, process.stderr)
        ]

    async def said(self, mark: str) -> bool:
        """Wait until a piece of text was written; False if the process closed its pipes before."""
        seen = self._marks.setdefault(mark.encode(), asyncio.Event())
        if mark.encode() in b"".join(self._last):
            return True
        waiting = asyncio.create_task(seen.wait())
        closed = asyncio.gather(*self._tasks)
        await asyncio.wait([waiting, closed], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        return seen.is_set()

    def last_words(self) -> str:
        """Return the end of what was written."""
        return b"".join(self._last).decode(errors="replace")[-KEPT:]

    async def close(self) -> None:
        """Read what is left."""
        await asyncio.gather(*self._tasks)

    async def _read(self, pipe: StreamReader) -> None:
        while chunk := await pipe.read(CHUNK):
            self.lines += chunk.count(b"\n")
            self._last.append(chunk)
            while len(self._last) > 1 and sum(map(len, self._last)) - len(self._last[0]) > KEPT:
                self._last.popleft()
            for mark, seen in self._marks.items():
                if not seen.is_set() and mark in b"".join(self._last):
                    seen.set()
