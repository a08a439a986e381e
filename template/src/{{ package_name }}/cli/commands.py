"""The command line: run the service, migrate its database, publish and read events, manage its queue.

Exit codes: 0 for success, 1 for a failure, with one sentence on standard error, 2 for wrong usage, 130 for an interrupt.
"""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import asyncpg
from pydantic import ValidationError
from pydantic_settings import SettingsError
from typer import Typer, TyperException
from typer.core import TyperGroup

from .. import COMMAND
from ..config import Settings, get_settings
from ..infra.database import StartupError
from ..infra.text import one_line, without_passwords
from ..settings_sources import find_misspelt
from . import check, events, pausing, queue, service, why
from .output import CommandFailed, OutputClosed, discard, fail, warn
from .store import describe


class Commands(TyperGroup):
    """All commands. Usage errors quote their input as one line, without secrets."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Parse the options before the name of a command."""
        with _one_line_errors():
            return super().make_context(*args, **kwargs)

    def invoke(self, *args: Any, **kwargs: Any) -> Any:
        """Parse the arguments of a command and run it."""
        with _one_line_errors():
            return super().invoke(*args, **kwargs)


@contextmanager
def _one_line_errors() -> Generator[None]:
    try:
        yield
    except TyperException as error:
        error.message = one_line(without_passwords(error.message))
        raise


app = Typer(
    cls=Commands,
    help=__doc__,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for part in (service, check, events, queue, pausing, why):
    app.add_typer(part.app)


def run() -> None:
    """Run the command line; report an error in one sentence, with exit code 1."""
    try:
        _warn_of_misspelt_settings()
        app()
    except OutputClosed:
        raise SystemExit(0) from None
    except (CommandFailed, StartupError, ValidationError, SettingsError, ValueError) as error:
        fail(_sentence(error))
    except asyncpg.PostgresError as error:
        fail(describe(error))
    except PermissionError as error:  # for the file of a secret, for example
        fail(f"{error.filename or error} cannot be read: let this user read it.")
    except OSError as error:
        if not error.filename:
            discard(sys.stdout)
        fail(f"{error.filename or 'Output'}: {error.strerror or error}.")


def _warn_of_misspelt_settings() -> None:
    """Warn of each variable whose name resembles a setting, except while a shell completes a word."""
    if f"_{COMMAND}_COMPLETE".replace("-", "_").upper() in os.environ:
        return
    if sys.argv[1:2] == ["check"]:  # has a line for each
        return
    for sentence in find_misspelt(Settings):
        warn(sentence, as_json=_logs_json())


def _logs_json() -> bool:
    try:
        return get_settings().log_format == "json"
    except (ValidationError, SettingsError):
        return False  # the command itself reports the error


def _sentence(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    problems = [
        f"{'.'.join(map(str, item['loc'])).upper() or 'Settings'}:"
        f" {item['msg'].removeprefix('Value error, ')}"
        for item in error.errors()
    ]
    return "; ".join(problems)
