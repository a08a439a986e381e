"""Shut a process down in limited time, even if tasks or threads hang.

A task can ignore its cancellation and a thread cannot be stopped, but Python waits for both at exit. So the
shutdown logs the ones that hang and does not wait for them. If the event loop blocks, a watchdog prints the
stacks of all threads and exits with code 1.
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

from ...core.units import Seconds

WATCHDOG_MARGIN: Seconds = 15.0  # after AGENT_GRACE; only a blocked event loop needs longer
TASKS_TIMEOUT: Seconds = 2.0  # for tasks that were cancelled
THREADS_TIMEOUT: Seconds = 2.0  # for threads of cancelled tasks
TELEMETRY_TIMEOUT: Seconds = 3.0  # for the last traces, in case the collector does not answer

POOLS = {"concurrent.futures.thread", "anyio._backends._asyncio"}
"""Modules of thread pools."""


class NotReleased(Exception):
    """Deliveries could not be released at shutdown; the message has their number."""


def arm_watchdog(grace: Seconds) -> None:
    """Dump all stacks and exit with code 1 after `grace` plus `WATCHDOG_MARGIN` seconds.

    A native thread does this, which depends neither on the event loop nor on the interpreter.
    """
    faulthandler.dump_traceback_later(grace + WATCHDOG_MARGIN, exit=True)


def run_until_stopped(
    main: Coroutine[Any, Any, None], loop_factory: Callable[[], asyncio.AbstractEventLoop] | None
) -> None:
    """Run a coroutine like `asyncio.run`, but do not wait for tasks and threads that hang."""
    runner = asyncio.Runner(loop_factory=loop_factory)
    try:
        _run_main(runner, main)
    finally:
        if runner.run(_cancel_remaining()):
            runner.close()  # waits for tasks and threads without a limit


def _run_main(runner: asyncio.Runner, main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end, even if another task raises `SystemExit` or `KeyboardInterrupt`.

    `sys.exit()` in a task of a decision, such as a tool's, stops the event loop. The loop is then run again,
    so that the decision fails with the error. Otherwise a poison event would end every process that claims
    it, without spending an attempt.
    """
    tasks: list[asyncio.Task[Any] | None] = []

    async def main_task() -> None:
        tasks.append(asyncio.current_task())
        await main

    run: Callable[[], object] = partial(runner.run, main_task())
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


async def _cancel_remaining() -> bool:
    """Cancel the remaining tasks; return whether all tasks and threads have ended."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    remaining: set[asyncio.Task[Any]] = set()
    if tasks:
        _, remaining = await asyncio.wait(tasks, timeout=TASKS_TIMEOUT)
    for task in remaining:
        logfire.error(
            "Task {task} does not end: {place}", task=task.get_name(), place=_task_location(task)
        )
    return not remaining and not busy_threads()


def _task_location(task: "asyncio.Task[Any]") -> str:
    frames = task.get_stack(limit=1)
    return _location(frames[-1]) if frames else "unknown"


def exit_process(code: int) -> None:
    """Exit the process with this code, without waiting for threads that hang.

    Raises:
        SystemExit: no thread hangs, and the code is not 0.
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
    """Wait up to `THREADS_TIMEOUT` for busy threads to end."""
    deadline = time.monotonic() + THREADS_TIMEOUT
    while busy_threads() and time.monotonic() < deadline:
        time.sleep(0.05)


def _flush_telemetry() -> bool:
    """Send the remaining telemetry; return False if the collector does not accept it in time."""
    flushing = threading.Thread(target=logfire.force_flush, daemon=True)
    flushing.start()
    flushing.join(TELEMETRY_TIMEOUT)
    return not flushing.is_alive()


def busy_threads() -> list[str]:
    """Return the name and the location in the code of each thread that delays the exit."""
    frames = sys._current_frames()  # pyright: ignore[reportPrivateUsage] - documented, and the only way
    others = [
        thread
        for thread in threading.enumerate()
        if not thread.daemon and thread not in (threading.main_thread(), threading.current_thread())
    ]
    return [
        f"{thread.name!r} in {_location(frame)}"
        for thread in others
        if (frame := frames.get(thread.ident or 0)) and not _is_idle(frame)
    ]


def _is_idle(frame: FrameType) -> bool:
    """Return whether a thread belongs to a pool and waits for work."""
    waiting, at = False, frame
    while at.f_globals.get("__name__") in {"threading", "queue"} and at.f_back:
        waiting, at = True, at.f_back
    in_pool = at.f_globals.get("__name__") in POOLS
    return in_pool and (waiting or at.f_code.co_name == "_worker")


def _location(frame: FrameType) -> str:
    """Return the innermost location in this package or, if there is none, the innermost of all."""
    package = __name__.partition(".")[0]
    at: FrameType | None = frame
    while at and at.f_globals.get("__name__", "").partition(".")[0] != package:
        at = at.f_back
    found = at or frame
    return f"{found.f_code.co_name} ({found.f_code.co_filename}:{found.f_lineno})"
