"""All commands, and the sentence for whatever goes wrong in one."""

import os
import sys

import asyncpg
from pydantic import ValidationError
from pydantic_settings import SettingsError
from typer import Typer

from .. import COMMAND
from ..config import Settings, get_settings
from ..infra.database import StartupError
from ..sources import misspelt
from . import __doc__ as explained
from . import events, queue, running
from .opening import trouble
from .output import CommandFailed, ReaderLeft, discard, fail, warn

app = Typer(
    help=explained,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for part in (running, events, queue):
    app.add_typer(part.app)


def run() -> None:
    """Run the command line; whatever is wrong is said in one sentence, with exit code 1."""
    try:
        _warn_of_misspelt()
        app()
    except ReaderLeft:
        raise SystemExit(0) from None
    except (CommandFailed, StartupError, ValidationError, SettingsError, ValueError) as error:
        fail(_sentence(error))
    except asyncpg.PostgresError as error:
        fail(trouble(error))
    except PermissionError as error:  # of a secret, for example
        fail(f"{error.filename or error} cannot be read: let this user read it.")
    except OSError as error:
        if not error.filename:
            discard(sys.stdout)
        fail(f"{error.filename or 'Output'}: {error.strerror or error}.")


def _warn_of_misspelt() -> None:
    """Warn once of each name that resembles a setting, but not while a shell completes a word."""
    if f"_{COMMAND}_COMPLETE".replace("-", "_").upper() in os.environ:
        return
    for sentence in misspelt(Settings):
        warn(sentence, as_json=_logs_json())


def _logs_json() -> bool:
    try:
        return get_settings().log_format == "json"
    except (ValidationError, SettingsError):
        return False  # the command itself reports what is wrong


def _sentence(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    problems = [
        f"{'.'.join(map(str, item['loc'])).upper() or 'Settings'}:"
        f" {item['msg'].removeprefix('Value error, ')}"
        for item in error.errors()
    ]
    return "; ".join(problems)
