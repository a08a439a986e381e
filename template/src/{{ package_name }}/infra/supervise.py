"""Keeping a task alive: restarted with backoff however it ends, its state there to be seen."""

import asyncio
import contextlib
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
REPORT_TIMEOUT: Seconds = (
    5.0  # a report that cannot be made must not keep the task from its restart
)

type Work = Callable[[], Awaitable[None]]
type OnFailure = Callable[[Exception], Awaitable[None]]


class TaskEnded(Exception):
    """A task that should always run ended without an error of its own; the message is the reason."""


class Supervised:
    """A named task that should always run."""

    def __init__(self, name: str, work: Work, on_failure: OnFailure | None = None) -> None:
        self.name = name
        self.state: Literal["running", "restarting", "stopped"] = "stopped"
        self.restarts = 0
        self.error: str | None = None
        self._work = work
        self._on_failure = on_failure
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Run the work until `stop`, or until cancelled.

        A run that ends for any other reason is logged and followed by a pause that doubles.
        """
        pause = FIRST_PAUSE
        try:
            while not self._stopping.is_set():
                self.state, began = "running", time.monotonic()
                error = await self._run_once()
                if self._stopping.is_set():
                    return
                if time.monotonic() - began > STEADY_AFTER:
                    pause = FIRST_PAUSE
                await self._report(error, pause)
                await self._rest(pause * random.uniform(0.5, 1.0))  # noqa: S311 - only jitter
                pause = min(pause * 2, LONGEST_PAUSE)
                self.restarts += 1
        finally:
            self.state = "stopped"

    def stop(self) -> None:
        """Begin no further run: a pause ends at once, and the present run when it is done."""
        self._stopping.set()

    async def _run_once(self) -> Exception:
        """Run the work in a task of its own, and return why it ended.

        Code inside that cancels the task it runs in ends this run, and not the supervision.
        """
        running = asyncio.create_task(_outcome_of(self._work), name=self.name)
        try:
            await asyncio.wait([running])
        finally:
            if not running.done():  # this call is being cancelled
                running.cancel()
                await asyncio.wait([running])
        return running.result()

    async def _rest(self, seconds: Seconds) -> None:
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
            # Reporting a failure must not become another one.
            logfire.exception("The failure of {name} was not announced", name=self.name)


async def _outcome_of(work: Work) -> Exception:
    """Run the work to its end and return the error that ended it, whatever its kind."""
    try:
        await work()
    except asyncio.CancelledError as error:
        return _ended("it was cancelled by code that it runs, and not to stop it", error)
    except Exception as error:
        return error
    except BaseException as error:  # a task that raises one of these would end the process
        return _ended(f"{error!r} was raised in it", error)
    return TaskEnded("it returned although nobody stopped it")


def _ended(how: str, error: BaseException) -> TaskEnded:
    ended = TaskEnded(how)
    ended.__cause__ = error
    return ended
