"""A finding of a check, and the guard that turns a failure of the check itself into one."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Literal

from ..core.units import Seconds
from ..infra.text import describe, one_line, shorten, without_passwords

CHECK_TIMEOUT: Seconds = 10.0  # of one check
MAX_BYTES = 500  # of one text: an error may quote a whole page

type State = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One line of the output. A warning or an error has a remedy; `check` names the part of the service."""

    check: str
    state: State
    found: str
    remedy: str = ""

    def row(self) -> dict[str, str]:
        """Return the fields for output, each as one line without passwords."""
        return {
            name: shorten(one_line(without_passwords(value)), MAX_BYTES)
            for name, value in asdict(self).items()
        }


def ok(check: str, found: str) -> Finding:
    """Return a finding that needs nothing."""
    return Finding(check, "ok", found)


def warning(check: str, remedy: str, found: str) -> Finding:
    """Return a finding that the service works with."""
    return Finding(check, "warning", found, remedy)


def error(check: str, remedy: str, found: str) -> Finding:
    """Return a finding that prevents the start, or loses events."""
    return Finding(check, "error", found, remedy)


def from_sentence(check: str, state: State, sentence: str) -> Finding:
    """Return the finding of a sentence of the form `problem: remedy.`, as a `StartupError` has it."""
    found, _, remedy = sentence.removesuffix(".").rpartition(": ")
    return Finding(check, state, found or remedy, remedy)


async def guarded(
    check: str,
    look: Callable[[], Awaitable[list[Finding]]],
    limit: Seconds = CHECK_TIMEOUT,
) -> list[Finding]:
    """Return the findings of a check; if it fails, or takes longer than `limit`, an error that names it."""
    try:
        async with asyncio.timeout(limit):
            return await look()
    except TimeoutError:
        found = f"this check did not end within {limit:g} s"
        return [error(check, "Look at what it waits for, and try again", found)]
    except Exception as problem:  # a check never ends the command
        return [
            error(
                check, "Correct the reason, or report it", f"this check failed: {describe(problem)}"
            )
        ]


async def in_thread[T](work: Callable[[], T]) -> T:
    """Return the result of a function, from a thread that does not keep the process alive if it hangs.

    Raises:
        RuntimeError: the function raised `SystemExit` or another exception that would end the process.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            value = work()
        except Exception as problem:
            _call(loop, lambda it=problem: result.done() or result.set_exception(it))
        except BaseException as problem:
            ended = RuntimeError(describe(problem)).with_traceback(problem.__traceback__)
            _call(loop, lambda: result.done() or result.set_exception(ended))
        else:
            _call(loop, lambda: result.done() or result.set_result(value))

    threading.Thread(target=run, daemon=True).start()
    return await result


def _call(loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> None:
    with suppress(RuntimeError):  # the loop has ended, and nobody waits
        loop.call_soon_threadsafe(callback)
