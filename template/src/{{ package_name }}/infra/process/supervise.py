"""Supervise a task: restart it with exponential backoff, and expose its state."""

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable
from typing import Literal

import logfire

from ...core.units import Seconds
from ..text import describe

MIN_RESTART_PAUSE: Seconds = 0.5
MAX_RESTART_PAUSE: Seconds = 30.0
RESET_AFTER: Seconds = 60.0  # a run of this length resets the backoff
REPORT_TIMEOUT: Seconds = 5.0  # a report must not delay the restart for longer

type Work = Callable[[], Awaitable[None]]
type OnFailure = Callable[[Exception], Awaitable[None]]


class TaskEnded(Exception):
    """A supervised task ended without an error of its own; the message is the reason."""


class Supervised:
    """A named task that is restarted whenever it ends."""

    def __init__(self, name: str, work: Work, on_failure: OnFailure | None = None) -> None:
        self.name = name
        self.state: Literal["running", "restarting", "stopped"] = "stopped"
        self.restarts = 0
        self.error: str | None = None
        self._work = work
        self._on_failure = on_failure
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Run the work until `stop` or cancellation.

        If a run ends for any other reason, log it and restart after a pause that doubles each time.
        """
        pause = MIN_RESTART_PAUSE
        try:
            while not self._stopping.is_set():
                self.state, began = "running", time.monotonic()
                error = await self._run_once()
                if self._stopping.is_set():
                    return
                if time.monotonic() - began > RESET_AFTER:
                    pause = MIN_RESTART_PAUSE
                await self._report(error, pause)
                await self._pause(pause * random.uniform(0.5, 1.0))  # noqa: S311 - only jitter
                pause = min(pause * 2, MAX_RESTART_PAUSE)
                self.restarts += 1
        finally:
            self.state = "stopped"

    def stop(self) -> None:
        """Start no further run: end a pause at once, and let the current run finish."""
        self._stopping.set()

    async def _run_once(self) -> Exception:
        """Run the work in a task of its own, and return the error that ended it.

        If code of the work cancels its own task, only this run ends, not the supervision.
        """
        running = asyncio.create_task(_outcome_of(self._work), name=self.name)
        try:
            await asyncio.wait([running])
        finally:
            if not running.done():  # the supervision is being cancelled
                running.cancel()
                await asyncio.wait([running])
        return running.result()

    async def _pause(self, seconds: Seconds) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    async def _report(self, error: Exception, pause: Seconds) -> None:
        self.state, self.error = "restarting", describe(error)
        logfire.error(
            "{name} failed, restart in {pause} s: {error}",
            name=self.name,
            pause=pause,
            error=self.error,
            _exc_info=error,
        )
        if self._on_failure is None:
            return
        try:
            async with asyncio.timeout(REPORT_TIMEOUT):
                await self._on_failure(error)
        except Exception:
            # A failed report must not end the supervision.
            logfire.exception("The failure of {name} could not be announced", name=self.name)


async def _outcome_of(work: Work) -> Exception:
    """Run the work to its end, and return the exception that ended it."""
    try:
        await work()
    except asyncio.CancelledError as error:
        return _ended("its own code cancelled it", error)
    except Exception as error:
        return error
    except BaseException as error:  # a task that raises one of these would end the process
        return _ended(f"{error!r} was raised in it", error)
    return TaskEnded("it returned without being stopped")


def _ended(how: str, error: BaseException) -> TaskEnded:
    ended = TaskEnded(how)
    ended.__cause__ = error
    return ended
