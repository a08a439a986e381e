"""Output of commands: lines, tables and error messages."""

import os
import sys
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from typing import Annotated, NoReturn, TextIO

import typer
from rich.console import Console

from .. import COMMAND
from ..infra.text import json_line, one_line, without_passwords

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for other programs.")]


class CommandFailed(Exception):
    """A command failed; the message is a sentence with the reason."""


class OutputClosed(Exception):
    """The reader of the output closed it, as `head` does."""


class Terminal(Console):
    """A console that raises `BrokenPipeError` when its reader closes the output."""

    def on_broken_pipe(self) -> None:
        """Raise the error: Rich would exit the process, in the middle of an event loop."""
        raise BrokenPipeError


def echo(*lines: str, err: bool = False) -> None:
    """Print each text as one line to standard output, or to standard error.

    Raises:
        CommandFailed: the output cannot be written.
        OutputClosed: the reader closed the output.
    """
    out = sys.stderr if err else sys.stdout
    with translate_write_errors(out):
        print(*map(one_line, lines), sep="\n", file=out, flush=True)


def print_rows_as_tsv(rows: Iterable[Iterable[str]]) -> None:
    """Print each row as one line of tab-separated values.

    Raises:
        CommandFailed: the output cannot be written.
        OutputClosed: the reader closed the output.
    """
    lines = ["\t".join(map(one_line, row)) for row in rows]
    with translate_write_errors(sys.stdout):
        print(*lines, sep="\n", flush=True)


def confirm(question: str) -> None:
    """Ask a question, and abort the command unless the answer is yes."""
    typer.confirm(one_line(question), abort=True)


@contextmanager
def translate_write_errors(out: TextIO) -> Generator[None]:
    """Translate the `OSError` of a failed write, so that it is not taken for a database error.

    Raises:
        CommandFailed: the output cannot be written, for example because the disk is full.
        OutputClosed: the reader closed the output.
    """
    try:
        yield
    except OSError as error:
        discard(out)
        if isinstance(error, BrokenPipeError):
            raise OutputClosed from error
        name = "Output" if out in (sys.stdout, sys.stderr) else out.name
        raise CommandFailed(f"{name}: {error.strerror}.") from error


def discard(out: TextIO) -> None:
    """Discard buffered output, which Python would write again when the process exits."""
    if out in (sys.stdout, sys.stderr):
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
    else:
        with suppress(OSError):
            out.close()


@contextmanager
def report_progress_on_error(progress: Callable[[], str]) -> Generator[None]:
    """Add the progress to the error of work that ends early; print it on an interrupt.

    Raises:
        CommandFailed: the work failed; the message has the reason and the progress.
    """
    try:
        yield
    except CommandFailed as error:
        raise CommandFailed(f"{str(error).removesuffix('.')}. {progress()}") from error
    except KeyboardInterrupt:
        echo(f"{COMMAND}: {progress()}", err=True)
        raise


def fail(sentence: str) -> NoReturn:
    """Print an error and exit with code 1."""
    with suppress(CommandFailed, OutputClosed):  # the exit code still reports the failure
        echo(f"{COMMAND}: {without_passwords(sentence)}", err=True)
    raise SystemExit(1)


def warn(sentence: str, *, as_json: bool) -> None:
    """Print a warning to standard error; as JSON if the log format is JSON."""
    line = {"time": time.time(), "level": "WARNING", "message": sentence, "name": "settings"}
    typer.echo(json_line(line) if as_json else one_line(f"{COMMAND}: {sentence}"), err=True)
