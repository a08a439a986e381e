"""Signals that stop a process of the service."""

import asyncio
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import wait


def stop_signals() -> list[signal.Signals]:
    """Return the signals that stop the process."""
    if (
        sys.platform == "win32" or signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    ):  # under `nohup`
        return [signal.SIGTERM, signal.SIGINT]
    return [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]  # SIGHUP: the terminal was closed


def ignore_signals() -> None:
    """Ignore stop signals from now on: the process is already stopping."""
    for number in stop_signals():
        signal.signal(number, _ignore)


def _ignore(*_: object) -> None:
    """Do nothing."""


def stop_event(on_signal: Callable[[], None] | None = None) -> asyncio.Event:
    """Return an event that a stop signal sets; call this in the main thread.

    The signal handler also calls `on_signal`, even if the event loop is blocked.
    """
    loop, stop = asyncio.get_running_loop(), asyncio.Event()

    def handle(*_: object) -> None:
        if on_signal is not None:
            on_signal()
        loop.call_soon_threadsafe(stop.set)

    for number in stop_signals():
        signal.signal(number, handle)  # event loops of Windows have no `add_signal_handler`
    return stop


def call_on_exit(sentinel: int, call: Callable[[], object]) -> None:
    """Call a function when another process ends, even if it is killed."""

    def watch() -> None:
        wait([sentinel])
        call()

    threading.Thread(target=watch, name="watch-parent", daemon=True).start()
