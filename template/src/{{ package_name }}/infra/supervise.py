"""Keeping a task alive: restarted with backoff when it fails, its state there to be seen."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Literal

import logfire

from ..core.types import Seconds
from .text import describe

FIRST_PAUSE: Seconds = 0.5
LONGEST_PAUSE: Seconds = 30.0
STEADY_AFTER: Seconds = 60.0  # a run this long shows that the last failure is over

type Work = Callable[[], Awaitable[None]]
type OnFailure = Callable[[Exception], Awaitable[None]]


class Supervised:
    """A named task that should always run."""

    def __init__(self, name: str, work: Work, on_failure: OnFailure | None = None) -> None:
        self.name = name
        self.state: Literal["running", "restarting", "stopped"] = "stopped"
        self.restarts = 0
        self.error: str | None = None
        self._work = work
        self._on_failure = on_failure

    async def run(self) -> None:
        """Run the work for ever; a failure is logged and followed by a pause that doubles."""
        pause = FIRST_PAUSE
        try:
            while True:
                self.state, began = "running", time.monotonic()
                try:
                    await self._work()
                    return
                except Exception as error:
                    if time.monotonic() - began > STEADY_AFTER:
                        pause = FIRST_PAUSE
                    await self._note(error, pause)
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - only jitter
                pause = min(pause * 2, LONGEST_PAUSE)
                self.restarts += 1
        finally:
            self.state = "stopped"

    async def _note(self, error: Exception, pause: Seconds) -> None:
        self.state, self.error = "restarting", describe(error)
        logfire.exception("{name} failed, restart in {pause} s", name=self.name, pause=pause)
        if self._on_failure is None:
            return
        try:
            await self._on_failure(error)
        except Exception:
            # Telling others about a failure must not become another one.
            logfire.exception("The failure of {name} was not announced", name=self.name)
