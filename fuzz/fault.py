"""What a fault is, and the account of what was tried."""

import threading
from collections import Counter
from dataclasses import dataclass, field

HANG = "hang"


class Fault(AssertionError):
    """The service broke a promise.

    `kind` tells faults apart that have different causes; only the first of a kind is reported.
    """

    def __init__(self, kind: str, said: str) -> None:
        super().__init__(f"{kind}: {said}")
        self.kind = kind
        self.is_slow = kind.startswith(HANG)
        """Whether each smaller example would take as long to try."""
        self.said = said


@dataclass
class Account:
    """What was tried, what became of it, and which faults were found."""

    tried: Counter[str] = field(default_factory=Counter[str])
    answers: Counter[str] = field(default_factory=Counter[str])
    """By status, close code or exit code."""
    late: Counter[str] = field(default_factory=Counter[str])
    """Answers that were late once, and in time when they were asked for again."""
    faults: dict[str, str] = field(default_factory=dict[str, str])
    """The smallest example of each kind."""
    again: Counter[str] = field(default_factory=Counter[str])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def try_one(self, what: str) -> None:
        """Count what is tried."""
        self.tried[what] += 1

    def count(self, answer: str) -> None:
        """Count an answer."""
        self.answers[answer] += 1

    def is_known(self, fault: Fault) -> bool:
        """Tell whether a fault of this kind was reported already, and count it then."""
        if fault.kind in self.faults:
            self.again[fault.kind] += 1
            return True
        return False

    def report(self, fault: Fault, example: str) -> None:
        """Take note of the first fault of a kind."""
        with self._lock:
            if fault.kind not in self.faults:
                self.faults[fault.kind] = f"{fault.said}\n{example}"
                print(f"\nFAULT {fault.kind}: {fault.said}\n{example}\n", flush=True)
