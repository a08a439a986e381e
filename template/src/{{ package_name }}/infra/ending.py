"""Ending a process in time, whatever hangs in it.

A task can refuse to be cancelled, a thread cannot be ended at all, and Python waits for both before it
ends a process. So a stop names what hangs, leaves it behind, and has a last guard for a blocked event
loop: then the process prints the stack of every thread and ends with exit code 1.
"""

import asyncio
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from functools import partial
from types import FrameType
from typing import Any

import logfire

from ..core.types import Seconds

GUARD: Seconds = 15.0  # beyond AGENT_GRACE, in which a stop whose event loop turns is over
TASKS_TIMEOUT: Seconds = 2.0  # for tasks that were cancelled
THREADS_TIMEOUT: Seconds = 2.0  # for threads that nobody waits for any more
TELEMETRY_TIMEOUT: Seconds = 3.0  # for the last traces, with a collector that may not answer

POOLS = {"concurrent.futures.thread", "anyio._backends._asyncio"}
"""Modules whose threads wait for work that others give them."""


class NotReleased(Exception):
    """Work was left behind that could not be returned to the queue; the message names how much."""


def guard(grace: Seconds) -> None:
    """End the process with all stacks on standard error if its stop outlasts the grace by `GUARD`.

    A native thread does this, which needs neither the event loop nor the interpreter.
    """
    faulthandler.dump_traceback_later(grace + GUARD, exit=True)


def run_to_end(
    main: Coroutine[Any, Any, None], loop_factory: Callable[[], asyncio.AbstractEventLoop] | None
) -> None:
    """Run a coroutine as `asyncio.run` does, but leave behind what does not end in time."""
    runner = asyncio.Runner(loop_factory=loop_factory)
    try:
        _run_through(runner, main)
    finally:
        if runner.run(_end_others()):
            runner.close()  # which waits for tasks and threads without a limit


def _run_through(runner: asyncio.Runner, main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its own end, whatever other tasks and callbacks raise.

    `sys.exit()` in a task that a decision began, such as a tool's, stops the event loop. So it is run
    again: whoever awaits that task gets the error, and the decision fails. Otherwise the event would
    end, without a word and without spending an attempt, each process that takes it.
    """
    tasks: list[asyncio.Task[Any] | None] = []

    async def noted() -> None:
        tasks.append(asyncio.current_task())
        await main

    run: Callable[[], object] = partial(runner.run, noted())
    while True:
        try:
            run()
        except (SystemExit, KeyboardInterrupt) as error:
            if not (tasks and tasks[0] and not tasks[0].done()):
                raise
            logfire.error(
                "{error} in a task does not end this process", error=repr(error), _exc_info=error
            )
            run = partial(runner.get_loop().run_until_complete, tasks[0])
        else:
            return


async def _end_others() -> bool:
    """Cancel what still runs; return whether all of it has ended."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    late: set[asyncio.Task[Any]] = set()
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=TASKS_TIMEOUT)
    for task in late:
        logfire.error("Task {task} does not end: {place}", task=task.get_name(), place=_place(task))
    return not late and not busy_threads()


def _place(task: "asyncio.Task[Any]") -> str:
    frames = task.get_stack(limit=1)
    return _where(frames[-1]) if frames else "unknown"


def leave(code: int) -> None:
    """End the process with this code, without waiting for threads that hang.

    Raises:
        SystemExit: nothing hangs, and the code is not 0.
    """
    _join_threads()
    hanging = busy_threads()
    for each in hanging:
        logfire.error("Thread {thread} does not end", thread=each)
    flushed = _flush_telemetry()
    faulthandler.cancel_dump_traceback_later()
    if hanging or not flushed:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    if code:
        raise SystemExit(code)


def _join_threads() -> None:
    """Give threads a moment to end: what they do may be almost done."""
    deadline = time.monotonic() + THREADS_TIMEOUT
    while busy_threads() and time.monotonic() < deadline:
        time.sleep(0.05)


def _flush_telemetry() -> bool:
    """Send what is still to be sent; False if the collector does not take it in time."""
    flushing = threading.Thread(target=logfire.force_flush, daemon=True)
    flushing.start()
    flushing.join(TELEMETRY_TIMEOUT)
    return not flushing.is_alive()


def busy_threads() -> list[str]:
    """Return the name, and the place in the code, of each thread that keeps this process from ending."""
    frames = sys._current_frames()  # pyright: ignore[reportPrivateUsage] - documented, and the only way
    others = [
        thread
        for thread in threading.enumerate()
        if not thread.daemon and thread not in (threading.main_thread(), threading.current_thread())
    ]
    return [
        f"{thread.name!r} in {_where(frame)}"
        for thread in others
        if (frame := frames.get(thread.ident or 0)) and not _is_idle(frame)
    ]


def _is_idle(frame: FrameType) -> bool:
    """Tell whether a thread of a pool waits for its next work."""
    waiting, at = False, frame
    while at.f_globals.get("__name__") in {"threading", "queue"} and at.f_back:
        waiting, at = True, at.f_back
    in_pool = at.f_globals.get("__name__") in POOLS
    return in_pool and (waiting or at.f_code.co_name == "_worker")


def _where(frame: FrameType) -> str:
    """Name the innermost line of this service's code, or the innermost of all."""
    package = __name__.partition(".")[0]
    at: FrameType | None = frame
    while at and at.f_globals.get("__name__", "").partition(".")[0] != package:
        at = at.f_back
    found = at or frame
    return f"{found.f_code.co_name} ({found.f_code.co_filename}:{found.f_lineno})"
