"""The starting gates: every measured process imports, then gets ready, and all start together."""

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from my_agent.serving import freeze_gc  # where older code has it, too

IMPORTED = "benchmarks: imported"
READY = "benchmarks: ready"


@dataclass(frozen=True)
class Outcome:
    """What one process measured. Times are of the machine's steady clock, in seconds."""

    start: float
    end: float
    count: int
    """How many events it published or handled."""
    seen: dict[str, float] = field(default_factory=dict[str, float])
    """When each event was sent or handled, where that is asked for."""
    peak_mb: float = 0.0
    """The most memory that the process ever had."""
    figures: dict[str, float] = field(default_factory=dict[str, float])
    """Whatever else it measured, by name."""
    lines: int = 0
    """How many lines it wrote to its pipes; the process that started it knows."""

    def write(self, path: Path) -> None:
        """Leave this for the process that started this one."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> "Outcome":
        """Return what a process left."""
        return cls(**json.loads(path.read_text()))


@dataclass
class Progress:
    """How far a drain has come, timed from its first event: by then everybody's connections are open."""

    total: int
    handled: int = 0
    start: float = 0.0
    end: float = 0.0

    def begin(self) -> None:
        """Note that an event is handed to its handler."""
        if not self.start:
            self.start = time.monotonic()

    def finish(self, count: int = 1) -> bool:
        """Note that so many are done for good; True if those were the last."""
        self.handled += count
        if self.handled == self.total:
            self.end = time.monotonic()
        return self.handled == self.total

    def outcome(self, peak_mb: float = 0.0) -> Outcome:
        """Return what came of it."""
        return Outcome(self.start, self.end, self.handled, peak_mb=peak_mb)


def imported() -> None:
    """Report that this process has imported what it needs, and wait until its database is filled."""
    print(IMPORTED, flush=True)
    sys.stdin.readline()


async def gate() -> float:
    """Report that this process is ready, wait for the others, and return the time of the start.

    The garbage collector is tuned as `serve` and `worker` do it, for every contender alike.
    """
    freeze_gc()
    print(READY, flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    return time.monotonic()
