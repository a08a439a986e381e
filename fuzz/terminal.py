"""The door command line: documented exit codes, one sentence for a failure, and no traceback."""

import json
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .commands import Command
from .fault import HANG, Account, Fault
from .judge import commands_terminal
from .ledger import Ledger

LIMIT = 20.0  # seconds that a command may take, twice in a row: it starts a process, on a shared machine
LISTENING = 1.5  # seconds until a command that does not end by itself is interrupted
CODES = {0, 1, 2}
INTERRUPTED = {130, -signal.SIGINT}  # the latter while Python itself starts or ends
PRINTED = re.compile(r"([\w.:-]+)\n")
"""An id as it is printed, if it is printed as it is."""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Terminal:
    """Runs commands, and judges how they end."""

    program: Sequence[str]
    env: Mapping[str, str]
    folder: Path
    ledger: Ledger
    account: Account

    def attempt(self, command: Command) -> None:
        """Run a command.

        Raises:
            Fault: it did not do what it must.
        """
        self.account.try_one("commands")
        ended = self._run(command)
        self.account.count(f"exit {ended.code}")
        name = command.name
        if "Traceback (most recent call last)" in ended.out + ended.err:
            raise Fault(f"traceback of {name}", ended.err[-2_000:])
        if ended.code not in (CODES if command.ends else CODES | INTERRUPTED):
            raise Fault(f"exit code {ended.code} of {name}", ended.err[-500:])
        if ended.code == 0 and name == "publish":
            self._look_up(command, ended)
        if ended.code:
            _require_sentence(name, ended)

    def _run(self, command: Command) -> Ended:
        for _ in range(2):
            try:
                return self._run_once(command)
            except subprocess.TimeoutExpired:
                self.account.late["commands"] += 1
        raise Fault(f"{HANG} of {command.name}", f"it did not end within {LIMIT:g} s, twice")

    def _run_once(self, command: Command) -> Ended:
        process = subprocess.Popen(
            [*self.program, *command.words],
            env=self.env,
            cwd=self.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            if not command.ends:
                time.sleep(LISTENING)
                process.send_signal(signal.SIGINT)
            out, err = process.communicate(command.given, timeout=LIMIT)
        finally:
            process.kill()
            process.wait()
        return Ended(process.returncode, out.decode(errors="replace"), err.decode(errors="replace"))

    def _look_up(self, command: Command, ended: Ended) -> None:
        """See that what a command published can be read."""
        if command.given:
            for line in command.given.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
                if line.strip():
                    self._look_for(json.loads(line))
        elif found := PRINTED.fullmatch(ended.out):
            self.ledger.accept(found[1], {}, new=False)

    def _look_for(self, event: dict[str, Any]) -> None:
        if "id" in event:
            self.ledger.accept(event["id"], event, new=False)


def _require_sentence(name: str, ended: Ended) -> None:
    """See that a failure is explained, in one line if it is not one of usage."""
    said = [line for line in ended.err.splitlines() if line.strip()]
    if (not said and ended.code == 1) or not (said or ended.out or ended.code in INTERRUPTED):
        raise Fault(f"no sentence of {name}", f"exit code {ended.code} without a word")
    if ended.code == 1 and len(said) > 1:
        raise Fault(f"more than one sentence of {name}", ended.err[:1_000])
    if any(commands_terminal(line) for line in said):
        raise Fault(f"a sentence of {name} commands the terminal", f"{ended.err!r:.1000}")
