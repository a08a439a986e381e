"""The service's processes, restarted when they end, as a supervisor would."""

import asyncio
import signal
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

PAUSE = 1.0  # seconds between the end of a process and its next start
STOP_LIMIT = 45.0
"""Seconds that a process may take to end after SIGTERM: AGENT_GRACE is 20, and the machine is busy."""


@dataclass
class Exit:
    """One end of a process."""

    at: float
    code: int
    asked: str
    """The fault that ended it; empty if it ended by itself."""


@dataclass
class Process:
    """One process of the service."""

    name: str
    command: list[str]
    env: Mapping[str, str]
    log: Path
    clock: Callable[[], float]
    """Seconds since the run began."""
    exits: list[Exit] = field(default_factory=list[Exit])
    late_stops: list[str] = field(default_factory=list[str])
    frozen: bool = False
    started_at: float = 0.0
    _process: asyncio.subprocess.Process | None = None
    _asked: str = ""

    @property
    def pid(self) -> int | None:
        """The process that lives and was not asked to end; None if there is none."""
        process = self._process
        if process is None or process.returncode is not None or self._asked:
            return None
        return process.pid

    async def run(self) -> None:
        """Start the process, again and again, until cancelled."""
        while True:
            await self._start()
            process = self._process
            assert process is not None
            code = await process.wait()
            self.exits.append(Exit(self.clock(), code, self._asked))
            self._asked, self.frozen = "", False
            await asyncio.sleep(PAUSE)

    async def _start(self) -> None:
        with self.log.open("ab") as log:
            log.write(f"--- {self.name} starts at {self.clock():.1f} s\n".encode())
            log.flush()
            self._process = await asyncio.create_subprocess_exec(
                *self.command,
                env=self.env,
                cwd=self.log.parent,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,  # an interrupt is for the soak, which then stops it
            )
            self.started_at = time.monotonic()

    def kill(self) -> bool:
        """End the process without a warning; False if it does not run."""
        return self._end("kill -9", signal.SIGKILL)

    async def stop(self) -> bool:
        """Ask the process to end and wait until it did; it is killed if it takes too long."""
        process = self._process
        if not self._end("SIGTERM", signal.SIGTERM):
            return False
        assert process is not None
        try:
            async with asyncio.timeout(STOP_LIMIT):
                await process.wait()
        except TimeoutError:
            self.late_stops.append(f"{self.name} at {self.clock():.0f} s")
            process.kill()
            await process.wait()
        return True

    async def freeze(self, seconds: float) -> bool:
        """Let the process stand still for a while; False if it does not run, or stands already."""
        process = self._process
        if self.pid is None or process is None or self.frozen:
            return False
        process.send_signal(signal.SIGSTOP)
        self.frozen = True
        try:
            await asyncio.sleep(seconds)
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGCONT)
            if process is self._process:
                self.frozen = False
        return True

    async def end(self) -> None:
        """End the process, whatever it was asked before."""
        process = self._process
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()

    def _end(self, how: str, number: signal.Signals) -> bool:
        process = self._process
        # A frozen process would not notice SIGTERM before it goes on, which is not what is tried here.
        if self.pid is None or process is None or (self.frozen and number != signal.SIGKILL):
            return False
        self._asked = how
        process.send_signal(number)
        return True


@asynccontextmanager
async def supervising(processes: Mapping[str, Process]) -> AsyncGenerator[None]:
    """Run the processes for the block, and leave none behind."""
    tasks = [asyncio.create_task(process.run()) for process in processes.values()]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        for process in processes.values():
            await process.end()
    for error in ended:
        if isinstance(error, Exception):
            raise error


async def memory_of(pid: int) -> float | None:
    """Return the resident memory of a process in MB; None if it just ended."""
    ps = await asyncio.create_subprocess_exec(
        *("ps", "-o", "rss=", "-p", str(pid)), stdout=asyncio.subprocess.PIPE
    )
    said, _ = await ps.communicate()
    return int(said) / 1024 if said.strip() else None
