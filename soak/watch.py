"""Watching the run: a live line for people, and samples of memory and tasks for the account."""

import asyncio
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx2

from .faults import NOT_NOW, Faults
from .processes import Process, memory_of
from .publisher import Answers
from .server import Server

INTERVAL = 5.0  # seconds between samples
LINES = 3  # samples for each line that is printed
WARM = 30.0  # seconds after its start from which on a process's memory counts
FRESH = 30.0  # seconds: an older heartbeat is one of a process that stands still
FEWEST = 3  # samples of a quarter that can be compared

QUEUE = """
SELECT count(*) FILTER (WHERE lease IS NULL AND held_at IS NULL AND dead_at IS NULL) AS depth,
       count(*) FILTER (WHERE lease IS NOT NULL) AS in_flight,
       count(*) FILTER (WHERE held_at IS NOT NULL) AS held,
       count(*) FILTER (WHERE dead_at IS NOT NULL) AS dead
  FROM deliveries WHERE subscriber = 'agent'
"""


class Sample(NamedTuple):
    """The memory of a process at one moment."""

    at: float
    megabytes: float


class Queue(NamedTuple):
    """What is pending for the agent, in events."""

    depth: int
    in_flight: int
    held: int
    dead: int


class Watch:
    """Samples the processes, and prints how the run goes."""

    def __init__(
        self,
        server: Server,
        client: httpx2.AsyncClient,
        processes: Mapping[str, Process],
        beats: Path,
        clock: Callable[[], float],
    ) -> None:
        self.memory: dict[str, list[Sample]] = defaultdict(list)
        self.stopped: list[str] = []
        """Tasks that had ended while their process lived, each as a sentence."""
        self._server = server
        self._client = client
        self._processes = processes
        self._beats = beats
        self._clock = clock
        self._suspects: set[tuple[str, int, str]] = set()

    async def run(self, answers: Answers, faults: Faults) -> None:
        """Sample until cancelled, and print a line now and then."""
        number = 0
        while True:
            await asyncio.sleep(INTERVAL)
            await self.sample()
            number += 1
            if number % LINES == 0:
                print(await self._line(answers, faults), flush=True)

    async def sample(self) -> None:
        """Look at every process once."""
        suspects: set[tuple[str, int, str]] = set()
        for name, process in self._processes.items():
            if (pid := process.pid) is None or process.frozen:
                continue
            if time.monotonic() - process.started_at > WARM and (used := await memory_of(pid)):
                self.memory[name].append(Sample(self._clock(), used))
            tasks = await self.tasks_of(name)
            suspects |= {(name, pid, task) for task, state in tasks.items() if state == "stopped"}
        # A task is `stopped` too before it begins, and at the end of its process: two looks in a row count.
        for name, pid, task in suspects & self._suspects:
            if self._processes[name].pid == pid:
                self.stopped.append(f"{task} of {name} at {self._clock():.0f} s")
        self._suspects = suspects

    async def tasks_of(self, name: str) -> dict[str, str]:
        """Return the state of each task of a process, as the process reports it; empty if it does not."""
        if name.startswith("worker"):
            said = self.heartbeat(name)
        else:
            said = {}
            with suppress(httpx2.TransportError, ValueError):
                said = (await self._client.get("/ready", timeout=INTERVAL)).json()
        return {task: str(about["state"]) for task, about in said.get("tasks", {}).items()}

    def heartbeat(self, name: str) -> dict[str, Any]:
        """Return what a worker wrote into its heartbeat's file; empty if that is old."""
        file = self._beats / f"{name}.beat"
        with suppress(FileNotFoundError, ValueError):
            if time.time() - file.stat().st_mtime < FRESH:
                return json.loads(file.read_text())
        return {}

    async def queue(self) -> Queue | None:
        """Count what is pending; None if the server does not answer."""
        with suppress(*NOT_NOW):
            connection = await self._server.connect()
            row = await connection.fetchrow(QUEUE)
            await connection.close()
            return Queue(*row) if row else None
        return None

    async def _line(self, answers: Answers, faults: Faults) -> str:
        queue = await self.queue()
        pending = (
            f"pending {queue.depth:4}  in flight {queue.in_flight:3}  held {queue.held:4}  dead {queue.dead:3}"
            if queue
            else "the database does not answer               "
        )
        memory = "  ".join(f"{name} {self._state(name)}" for name in self._processes)
        at = f"{int(self._clock()) // 60:3}:{int(self._clock()) % 60:02}"
        published = f"published {len(answers.acknowledged):6,} ({len(answers.waiting):2} waiting)"
        return f"{at}  {published}  {pending}  {memory}  {'; '.join(faults.current)}"

    def _state(self, name: str) -> str:
        process = self._processes[name]
        if process.pid is None:
            return "   down"
        if process.frozen:
            return " frozen"
        samples = self.memory[name]
        return f"{samples[-1].megabytes:4.0f} MB" if samples else "     up"


def growth(samples: list[Sample], seconds: float) -> tuple[float, float] | None:
    """Return the medians, in MB, of a run's second and last quarter; None if there are too few samples."""
    second = [s.megabytes for s in samples if seconds / 4 <= s.at < seconds / 2]
    last = [s.megabytes for s in samples if s.at >= seconds * 3 / 4]
    if min(len(second), len(last)) < FEWEST:
        return None
    return statistics.median(second), statistics.median(last)
