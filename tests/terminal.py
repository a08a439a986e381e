"""A terminal of 80 columns that shows what a program draws, so that tests see what people see."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pexpect
import pyte

ENTER = "\r"
DELETE_LINE = "\x05\x15"  # Ctrl-E, Ctrl-U: to the end of the line, and delete what is before it
DONE = "\x1b\r"  # Esc, Enter: the end of a text of several lines
DOWN = "\x1b[B"
BACKSPACE = "\x7f"
PATIENCE = 240.0
COLUMNS, LINES = 80, 40


class Answering(pyte.Screen):
    """A screen that reports its cursor to the program, as terminals do."""

    def __init__(self, send: Callable[[str], object]) -> None:
        super().__init__(COLUMNS, LINES)
        self._send = send

    def write_process_input(self, data: str) -> None:
        """Answer a question of the program."""
        self._send(data)


class Terminal:
    """A program at a pseudo-terminal, and what it shows."""

    def __init__(self, command: list[str], cwd: Path) -> None:
        self._child: pexpect.spawn[str] = pexpect.spawn(
            command[0],
            command[1:],
            cwd=cwd,
            dimensions=(LINES, COLUMNS),
            encoding="utf-8",
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS)},
        )
        self._screen = Answering(self._child.send)
        self._stream = pyte.Stream(self._screen)

    def type(self, keys: str) -> None:
        """Press keys."""
        self._child.send(keys)

    def shows(self, text: str) -> str:
        """Wait until a text can be read, and return the whole screen."""
        end = time.monotonic() + PATIENCE
        while text not in self.screen():
            assert time.monotonic() < end, f"{text!r} does not appear:\n{self.screen()}"
            self._read()
        return self.screen()

    def screen(self) -> str:
        """Return what can be read, without the spaces at the ends of lines."""
        return "\n".join(line.rstrip() for line in self._screen.display).strip("\n")

    def end(self) -> int:
        """Read to the end, and return the exit code."""
        end = time.monotonic() + PATIENCE
        while self._read():
            assert time.monotonic() < end, f"the program does not end:\n{self.screen()}"
        self._child.close()
        return self._child.exitstatus if self._child.exitstatus is not None else -1

    def _read(self) -> bool:
        try:
            self._stream.feed(self._child.read_nonblocking(4096, timeout=1))
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            return False
        return True
