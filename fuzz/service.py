"""The service under test: the defaults of the template, with an address, a database and a key."""

import re
import socket
import subprocess
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from demo.ports import free_port
from soak.project import bare_environment

from .fault import Fault
from .project import PYTHON
from .request import KEY
from .wire import ask

INSIDE = Path(__file__).parent / "inside" / "service.py"
START_LIMIT, STOP_LIMIT = 90.0, 45.0  # seconds
TRACEBACK = re.compile(r"Traceback \(most recent call last\)")
BEFORE, AFTER = 500, 3_000  # characters of the log around a traceback


@dataclass
class Log:
    """What the service logs, looked through for tracebacks."""

    file: Path
    _place: int = 0

    def check(self) -> None:
        """Look at what is new.

        Raises:
            Fault: there is a traceback.
        """
        with self.file.open("rb") as file:
            file.seek(self._place)
            new = file.read()
        self._place += len(new)
        text = new.decode(errors="replace")
        if found := TRACEBACK.search(text):
            raise Fault(
                f"traceback in the log: {_where(text[found.start() :])}", shown_around(text, found)
            )


def shown_around(text: str, found: re.Match[str]) -> str:
    """Return a traceback with what was logged just before it."""
    return text[max(0, found.start() - BEFORE) : found.start() + AFTER]


def _where(traceback: str) -> str:
    """Return by what tracebacks are told apart: the exception, and the last of our lines."""
    ours = re.findall(r'src/my_agent/(\S+)", line \d+, in (\w+)', traceback)
    raised = re.search(
        r"^\s*([\w.]+(?:Error|Exception|Disconnect|Cancelled\w*|Event\w*))\b", traceback, re.M
    )
    return f"{raised[1] if raised else '?'} in {' '.join(ours[-1]) if ours else 'a library'}"


@dataclass
class Service:
    """A process that serves."""

    pid: int
    port: int
    log: Log
    probe: Path

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return "127.0.0.1", self.port


def environment(database_url: str) -> dict[str, str]:
    """Return what is set beside the defaults."""
    return {**bare_environment(), "DATABASE_URL": database_url, "API_KEYS": KEY}


@contextmanager
def running(env: Mapping[str, str], folder: Path) -> Generator[Service]:
    """Run the service for the block.

    Raises:
        RuntimeError: it does not start, or does not end when it is asked to.
    """
    port, probe = free_port(), folder / "tasks.socket"
    probe.unlink(missing_ok=True)
    command = [str(PYTHON), str(INSIDE), str(probe), "serve", "--port", str(port)]
    file = folder / "logs" / "service.log"
    with file.open("wb") as log:
        process = subprocess.Popen(
            command, env=env, cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
    try:
        _wait(process, port)
        yield Service(process.pid, port, Log(file), probe)
        process.terminate()
        if process.wait(STOP_LIMIT):
            raise RuntimeError(f"the service ended with {process.returncode}: see {file}")
    finally:
        process.kill()
        process.wait()


def _wait(process: "subprocess.Popen[bytes]", port: int) -> None:
    until = time.monotonic() + START_LIMIT
    while process.poll() is None and time.monotonic() < until:
        with suppress(OSError, socket.timeout):
            if ask(("127.0.0.1", port), "/ready").status == 200:
                return
        time.sleep(0.2)
    raise RuntimeError("the service does not start: see build/fuzz/logs/service.log")
