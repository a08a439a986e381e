"""Rounds of examples: each has a seed of its own, so each can be repeated without those before it."""

import math
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.errors import HypothesisWarning

from demo.render import BUILD

from .fault import Account, Fault

set_hypothesis_home_dir(BUILD / "hypothesis")  # what it caches
APART = 1_000_003  # between the seeds of two runs: no round of one is a round of the other
SHRINK_LIMIT = 30.0  # seconds in which a smaller example of a fault is looked for
UNHURRIED = settings(
    database=None,
    deadline=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=cast("list[HealthCheck]", [*HealthCheck]),
    report_multiple_bugs=False,
    print_blob=False,
)


@dataclass(frozen=True)
class Door:
    """A way into the service: what is sent there, and what looks at the answers."""

    name: str
    examples: st.SearchStrategy[Any]
    attempt: Callable[[Any], None]
    shown: Callable[[Any], str]
    count: int
    """Examples of a round."""


@dataclass
class Round:
    """One round of a door: what was tried in it, and which fault it has."""

    door: Door
    account: Account
    going: Callable[[], bool]
    _outcomes: dict[str, Fault | None] = field(default_factory=dict[str, Fault | None])
    """By example: an example that is tried again has the same outcome, or Hypothesis would give up."""
    _smallest: Any = None
    _until: float = math.inf
    """Until when a smaller example is looked for."""

    def attempt(self, example: Any) -> None:
        """Try an example.

        Raises:
            Fault: a new one.
        """
        key = self.door.shown(example)
        over = time.monotonic() > self._until or (self._until == math.inf and not self.going())
        if key not in self._outcomes and not over:
            self._outcomes[key] = self._new_fault(example)
        if (fault := self._outcomes.get(key)) is not None:
            self._smallest = example
            self._until = min(self._until, time.monotonic() + SHRINK_LIMIT)
            raise fault

    def _new_fault(self, example: Any) -> Fault | None:
        fault = fault_of(self.door, example)
        if fault is None or self.account.is_known(fault):
            return None
        if fault.is_slow:
            self.account.report(fault, self.door.shown(example))
            return None
        return fault

    def report(self, fault: Fault, command: str) -> None:
        """Report a fault with its smallest example, after that was tried once more."""
        again = fault_of(self.door, self._smallest)
        once = "" if again and again.kind == fault.kind else "It did not come again.\n"
        self.account.report(fault, f"{self.door.shown(self._smallest)}\n{once}{command}")


def explore(door: Door, run: int, number: int, account: Account, going: Callable[[], bool]) -> None:
    """Try the examples of a round, and report the smallest one of a fault that is new."""
    tried = Round(door, account, going)
    test = given(door.examples)(tried.attempt)
    test = seed(run * APART + number)(settings(UNHURRIED, max_examples=door.count)(test))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HypothesisWarning)  # of examples that are long
            test()
    except Fault as fault:
        tried.report(fault, f'ARGS="--seed {run} --only {door.name} --round {number}"')


def fault_of(door: Door, example: Any) -> Fault | None:
    """Try an example and return its fault, if it has one."""
    try:
        door.attempt(example)
    except Fault as fault:
        return fault
    except Exception as error:  # an answer that nobody can read, for example
        name = type(error).__name__
        return Fault(f"an answer is not understood: {name}", traceback.format_exc()[-2_000:])
    return None
