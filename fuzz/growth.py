"""Whether the service grows: memory, files, connections and tasks, after everything that was done to it."""

import json
import socket
import threading
import time
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from soak.watch import Sample, growth

INTERVAL = 2.0  # seconds between samples of memory
MORE_MEMORY = 0.2  # by how much of its second quarter the process may have grown in its last
MORE_FILES = 20
"""Files by which two counts may differ: the pool of the database opens and closes connections as it needs them."""
REST_LIMIT = (
    45.0  # seconds until everything of the past is over: a half-sent body takes API_BODY_TIMEOUT
)
ESTABLISHED, CLOSE_WAIT = "01", "08"


@dataclass(frozen=True)
class Census:
    """What the service has at a moment at which nothing is asked of it."""

    files: int
    connections: int
    """With clients, also those that only the other side has closed."""
    tasks: Counter[str]

    def differences(self, later: "Census") -> list[str]:
        """Return what there is more of, later."""
        found = [f"task {name}: {n} more" for name, n in (later.tasks - self.tasks).items()]
        if later.files > self.files + MORE_FILES:
            found.append(f"open files: {self.files}, then {later.files}")
        if later.connections:
            found.append(f"connections of clients: {later.connections} are left")
        return found


@dataclass
class Growth:
    """Samples the memory of the service, and counts what it has."""

    pid: int
    port: int
    probe: Path
    samples: list[Sample] = field(default_factory=list[Sample])
    _begun: float = field(default_factory=time.monotonic)
    _over: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Sample until stopped."""
        threading.Thread(target=self._sample, daemon=True).start()

    def stop(self) -> None:
        """End sampling."""
        self._over.set()

    def _sample(self) -> None:
        while not self._over.wait(INTERVAL):
            with suppress(OSError, StopIteration):
                self.samples.append(Sample(time.monotonic() - self._begun, self.memory()))

    def memory(self) -> float:
        """Return the resident memory of the process in MB."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024

    def peak(self) -> float:
        """Return the most memory that it ever had, in MB."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024

    def medians(self, seconds: float) -> tuple[float, float] | None:
        """Return the median memory of the run's second and last quarter; None for too few samples."""
        return growth(self.samples, seconds)

    def census(self) -> Census:
        """Wait until the service rests, and count."""
        until = time.monotonic() + REST_LIMIT
        while (found := self._count()).connections and time.monotonic() < until:
            time.sleep(0.5)
        return found

    def _count(self) -> Census:
        with closing(socket.socket(socket.AF_UNIX)) as probe:
            probe.settimeout(REST_LIMIT)
            probe.connect(str(self.probe))
            with probe.makefile("rb") as file:
                tasks = Counter[str](json.load(file))
        files = len(list(Path(f"/proc/{self.pid}/fd").iterdir()))
        return Census(files, self._connections(), tasks)

    def _connections(self) -> int:
        ours = f":{self.port:04X}"
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return sum(row[1].endswith(ours) and row[3] in (ESTABLISHED, CLOSE_WAIT) for row in rows)
