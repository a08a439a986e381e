"""A client as it should be: it repeats an event, with the same id, until it is answered."""

import asyncio
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import httpx2

from .events import Sent

CLIENTS = 32  # events, or batches of them, that are sent at the same time
RATE = 20.0  # events a second
BATCH = 5  # events
SHARE_OF_BATCHES, SHARE_OF_REPETITIONS = 0.05, 0.05
TIMEOUT = 5.0  # seconds that an answer may take
PAUSE = (0.2, 1.0)  # seconds between two attempts
REFUSED = frozenset({400, 413, 422})


@dataclass
class Answers:
    """What became of all events, as far as their publisher knows."""

    acknowledged: dict[str, Sent] = field(default_factory=dict[str, Sent])
    refused: dict[str, Sent] = field(default_factory=dict[str, Sent])
    waiting: dict[str, Sent] = field(default_factory=dict[str, Sent])
    """Sent, and not answered yet."""
    strange: list[str] = field(default_factory=list[str])
    """Answers that nobody may get, each as a sentence."""
    attempts: int = 0
    errors: int = 0
    """Answers 500: repeated like any other failure, and counted."""


class Publisher:
    """Publishes events over HTTP."""

    def __init__(self, client: httpx2.AsyncClient, seed: int) -> None:
        self.answers = Answers()
        self._client = client
        self._chance = random.Random(seed)  # noqa: S311 - the same choices each time
        self._places = asyncio.Semaphore(CLIENTS)

    async def run(self, events: Iterator[Sent], going: Callable[[], bool]) -> None:
        """Publish as long as this is wanted, and then wait until everything is answered."""
        async with asyncio.TaskGroup() as group:
            while going():
                batch = self._chance.random() < SHARE_OF_BATCHES
                group_of_events = list(islice(events, BATCH if batch else 1))
                await self._places.acquire()
                task = group.create_task(self.deliver(group_of_events))
                task.add_done_callback(lambda _: self._places.release())
                await asyncio.sleep(len(group_of_events) / RATE)

    async def deliver(self, events: list[Sent]) -> None:
        """Send events until they are answered; a deep one alone, as it may be refused."""
        deep = [event for event in events if event.kind == "deep"]
        rest = [event for event in events if event.kind != "deep"]
        for together in [*([event] for event in deep), rest]:
            if together:
                await self._until_answered(together)

    async def _until_answered(self, events: list[Sent]) -> None:
        known = self.answers
        known.waiting |= {event.id: event for event in events}
        again = self._chance.random() < SHARE_OF_REPETITIONS
        answer = await self._send(events)
        for event in events:
            del known.waiting[event.id]
            (known.acknowledged if answer.is_success else known.refused)[event.id] = event
        first = events[0]
        if not answer.is_success and (answer.status_code not in REFUSED or first.kind != "deep"):
            known.strange.append(f"{_named(first)} got {_shown(answer)}")
        if answer.is_success and again and len(events) == 1:
            repeated = await self._send(events)
            if not repeated.is_success or repeated.json()["status"] != "duplicate":
                known.strange.append(f"a repetition of {_named(first)} got {_shown(repeated)}")

    async def _send(self, events: list[Sent]) -> httpx2.Response:
        path, body = "/events", events[0].body
        if len(events) > 1:
            path, body = "/events/batch", b"[" + b",".join(event.body for event in events) + b"]"
        while True:
            self.answers.attempts += 1
            try:
                answer = await self._client.post(
                    path,
                    content=body,
                    headers={"Content-Type": "application/json"},
                    timeout=TIMEOUT,
                )
            except httpx2.TransportError:
                pass  # refused, reset or late: it may be stored, and has to be sent again
            else:
                if answer.status_code < 500 and answer.status_code != 429:
                    return answer
                self.answers.errors += answer.status_code == 500
            await asyncio.sleep(self._chance.uniform(*PAUSE))


def _named(event: Sent) -> str:
    return f"{event.id} ({event.kind})"


def _shown(answer: httpx2.Response) -> str:
    return f"{answer.status_code}: {answer.text[:200]}"
