"""One run: the service is started, the doors take turns, and in the end everything is accounted for."""

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from soak.ledger import Check
from soak.project import bare_environment
from soak.server import DATABASE, PASSWORD, ROLE, Server, serving

from . import commands, frames, request, requests, schema
from .fault import Account, Fault
from .growth import MORE_MEMORY, Census, Growth
from .http import Http
from .judge import in_time, judge
from .ledger import Ledger
from .project import HOME, PYTHON
from .request import KEY
from .rounds import Door, explore
from .schema import Schema
from .service import Service, environment, running
from .terminal import Terminal
from .websocket import WebSocket
from .wire import ask

NAMES = ("http", "websocket", "schema", "terminal")
SHOWN = 5  # ids of events that are missing


@dataclass(frozen=True)
class Plan:
    """How long, with which seed, and which part of it."""

    minutes: float
    seed: int
    only: tuple[str, ...] = NAMES
    round: int | None = None
    """Only this one."""


@contextmanager
def database() -> Generator[Server]:
    """Run the database for the block."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        server = serving(PYTHON, HOME / "servers", bare_environment())
        try:
            found = runner.run(stack.enter_async_context(server))
            runner.run(found.prepare())
            yield found
        finally:
            runner.run(stack.aclose())


def whole(plan: Plan, account: Account) -> list[Check]:
    """Run everything and return what was promised, and what happened."""
    with database() as server:
        url = f"postgresql+asyncpg://{ROLE}:{PASSWORD}@127.0.0.1:{server.port}/{DATABASE}"
        env = environment(url)
        with running(env, HOME) as service:
            ledger = Ledger(service.address, KEY)
            doors = doors_of(service, env, ledger, account)
            return Run(plan, service, ledger, account, doors).checks()


def doors_of(
    service: Service, env: Mapping[str, str], ledger: Ledger, account: Account
) -> list[Door]:
    """Return the ways into a service; after each example its log is looked at."""
    host, port = service.address
    document = json.loads(ask(service.address, "/openapi.json").body)
    http = Http(service.address, ledger, account)
    socket = WebSocket(service.address, ledger, account)
    fits = Schema(f"http://{host}:{port}", ledger, account)
    terminal = Terminal((str(PYTHON), "-m", "my_agent"), env, HOME, ledger, account)
    look = partial(_then_look, service, account)
    return [
        Door("http", requests.requests, look(http.attempt), request.shown, 200),
        Door("websocket", frames.talks, look(socket.attempt), frames.shown, 100),
        Door("schema", schema.cases(document), look(fits.attempt), schema.shown, 100),
        Door("terminal", commands.commands, look(terminal.attempt), commands.shown, 12),
    ]


def _then_look(
    service: Service, account: Account, attempt: Callable[[Any], None]
) -> Callable[[Any], None]:
    """Return an attempt after which the service answers others in time, and its log has no traceback."""

    def both(example: Any) -> None:
        attempt(example)
        judge(in_time(lambda: ask(service.address, "/health"), lambda it: it.seconds, account))
        service.log.check()

    return both


@dataclass
class Run:
    """The doors taking turns."""

    plan: Plan
    service: Service
    ledger: Ledger
    account: Account
    doors: list[Door]
    _begun: float = 0.0

    def checks(self) -> list[Check]:
        """Try everything, and return what was promised and what happened."""
        growth = Growth(self.service.pid, self.service.port, self.service.probe)
        self._begun = time.monotonic()
        growth.start()
        seconds = self.plan.minutes * 60
        rounds = itertools.count() if self.plan.round is None else iter([self.plan.round])
        _warm_up(self.service)
        self._take_turns(rounds, seconds / 4)
        early = growth.census()
        self._take_turns(rounds, seconds)
        late = growth.census()
        growth.stop()
        found = [self._faults(), self._log(), *_compared(growth, early, late, seconds)]
        print(f"Memory: {growth.memory():.0f} MB at the end, {growth.peak():.0f} MB at most.")
        return found

    def _take_turns(self, rounds: "itertools.count[int] | Any", until: float) -> None:
        def going() -> bool:
            return self.plan.round is not None or time.monotonic() - self._begun < until

        while going() and (number := next(rounds, None)) is not None:
            for door in self.doors:
                if door.name in self.plan.only:
                    explore(door, self.plan.seed, number, self.account, going)
            self._report(number)

    def _report(self, number: int) -> None:
        at = int(time.monotonic() - self._begun)
        tried = ", ".join(f"{count:,} {what}" for what, count in self.account.tried.items())
        print(
            f"{at // 60:3}:{at % 60:02}  round {number}: {tried}; {len(self.ledger.events):,} events",
            flush=True,
        )

    def _faults(self) -> Check:
        faults = self.account.faults
        said = f"{len(faults)} kinds of faults" if faults else "none was broken"
        return Check("every example keeps every promise", said, not faults, [*faults])

    def _log(self) -> Check:
        promise = "all that was accepted is listed in the end, as it was read"
        try:
            missing = self.ledger.missing()
        except Fault as fault:
            return Check(promise, str(fault), False)
        count = len(self.ledger.events)
        return Check(
            promise, f"{count - len(missing):,} of {count:,}", not missing, missing[:SHOWN]
        )


def _warm_up(service: Service) -> None:
    """Use once what starts a task with its first use."""
    ask(service.address, "/events/stream", KEY)


def _compared(growth: Growth, early: Census, late: Census, seconds: float) -> list[Check]:
    medians = growth.medians(seconds)
    promise = f"memory: at most {MORE_MEMORY:.0%} more in the last quarter than in the second"
    same = "files, tasks and connections are as many as after the first quarter"
    more = early.differences(late)
    happened = "as many" if not more else f"{len(more)} kinds are more"
    if medians is None:
        return [
            Check(promise, "not compared: too few samples", True),
            Check(same, happened, not more, more),
        ]
    first, last = medians
    kept = last <= first * (1 + MORE_MEMORY)
    return [
        Check(promise, f"{first:.0f} MB, then {last:.0f} MB", kept),
        Check(same, happened, not more, more),
    ]
