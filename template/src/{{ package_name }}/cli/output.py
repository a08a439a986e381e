"""What commands print: lines, and one sentence when something is wrong."""

import json
import os
import re
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Annotated, NoReturn, TextIO

import typer
from rich.console import Console

from .. import COMMAND

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # what moves a terminal's cursor, and more

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for other programs.")]


class CommandFailed(Exception):
    """A command cannot do what it was asked to; the message is a sentence that says why."""


class ReaderLeft(Exception):
    """Who reads what a command prints has seen enough, as `head` does."""


class Terminal(Console):
    """A console that leaves it to others what a reader who left means."""

    def on_broken_pipe(self) -> None:
        """Raise what Rich would end the process for, in the middle of an event loop."""
        raise BrokenPipeError


def say(text: str, *, err: bool = False) -> None:
    """Print a line to standard output, or to standard error.

    Raises:
        CommandFailed: it cannot be written.
        ReaderLeft: nobody wants it.
    """
    out = sys.stderr if err else sys.stdout
    with writing(out):
        print(text, file=out, flush=True)


def plain(text: str) -> str:
    """Return a text without what a terminal would take for commands."""
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


@contextmanager
def writing(out: TextIO) -> Generator[None]:
    """Tell what cannot be written apart from a database that cannot be reached.

    Raises:
        CommandFailed: a full disk, for example.
        ReaderLeft: nobody wants more.
    """
    try:
        yield
    except OSError as error:
        discard(out)
        if isinstance(error, BrokenPipeError):
            raise ReaderLeft from error
        name = "Output" if out in (sys.stdout, sys.stderr) else out.name
        raise CommandFailed(f"{name}: {error.strerror}.") from error


def discard(out: TextIO) -> None:
    """Drop what is not written yet, or the end of the process would try once more."""
    if out in (sys.stdout, sys.stderr):
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
    else:
        with suppress(OSError):
            out.close()


@contextmanager
def telling(so_far: Callable[[], str]) -> Generator[None]:
    """Say how far work came that ends before it is done.

    Raises:
        CommandFailed: it failed; this says both.
    """
    try:
        yield
    except CommandFailed as error:
        raise CommandFailed(f"{str(error).removesuffix('.')}. {so_far()}") from error
    except KeyboardInterrupt:
        say(f"{COMMAND}: {so_far()}", err=True)
        raise


def fail(sentence: str) -> NoReturn:
    """Say what is wrong and end with exit code 1."""
    with suppress(CommandFailed, ReaderLeft):  # the exit code is left to tell it
        say(f"{COMMAND}: {sentence}", err=True)
    raise SystemExit(1)


def warn(sentence: str, *, as_json: bool) -> None:
    """Print a warning to standard error, as JSON where the log is."""
    line = {"time": time.time(), "level": "WARNING", "message": sentence, "name": "settings"}
    typer.echo(json.dumps(line) if as_json else f"{COMMAND}: {sentence}", err=True)
