"""A service that listens, as the rows of `doors.py` and `start.py` measure it: its port, its CPU, its answers."""

import asyncio
import os
import re
from asyncio.subprocess import Process
from pathlib import Path

from .pipes import Pipes

HOST = "127.0.0.1"


def cpu(process: Process) -> float:
    """Return the CPU seconds, user and system, that a process has used."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def port_of(pipes: Pipes) -> int:
    """Return the port that a server reports when it listens, or is about to."""
    if await pipes.said(f"http://{HOST}:"):
        await asyncio.sleep(0.1)  # the rest of the line
        if found := re.search(rf"http://{HOST}:(\d+)", pipes.last_words()):
            return int(found[1])
    raise SystemExit(f"A server ended before it listened:\n{pipes.last_words()}")


async def until_answered(process: Process, port: int, path: str) -> None:
    """Ask until the answer is 200."""
    while process.returncode is None:
        try:
            reader, writer = await asyncio.open_connection(HOST, port)
            writer.write(f"GET {path} HTTP/1.0\r\nHost: bench\r\n\r\n".encode())
            answer = await reader.read()
            writer.close()
            if b" 200 " in answer.partition(b"\r\n")[0]:
                return
        except OSError:  # it does not listen yet
            pass
        await asyncio.sleep(0.05)
    raise SystemExit(f"A server ended before it answered {path}")
