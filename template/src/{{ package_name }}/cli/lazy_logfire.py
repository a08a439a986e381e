"""Load Logfire only when a command has a warning to show.

Loading Logfire takes longer than most commands, and commands show no telemetry below warnings.
"""

import os
import sys
from contextlib import nullcontext
from importlib import import_module
from types import ModuleType
from typing import Any

SERVICE_COMMANDS = frozenset({"dev", "serve", "worker"})
"""Commands that run the service with its telemetry, so they load Logfire at once."""

LOGFIRE = "logfire"
NOOP_NAMES = frozenset({"debug", "info", "notice", "span", "suppress_instrumentation", "trace"})
"""Functions of Logfire that do nothing in a command."""


def defer_logfire() -> None:
    """Replace Logfire in `sys.modules` by a module that loads it with the first warning."""
    if LOGFIRE in sys.modules:  # a process that runs the service, or tests
        return
    # Its Pydantic plugin, which does nothing by default, would load it with the first model.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "logfire-plugin")
    sys.modules[LOGFIRE] = LazyLogfire(LOGFIRE)


def configure() -> None:
    """Configure Logfire to show warnings on the terminal, now or when it is loaded."""
    if not isinstance(sys.modules.get(LOGFIRE), LazyLogfire):
        from ..infra.observability import configure_for_commands

        configure_for_commands()


class LazyLogfire(ModuleType):
    """A stand-in for Logfire that loads and configures it on the first use of a visible function."""

    def __getattr__(self, name: str) -> Any:
        """Return a function without effect, or load Logfire and return its attribute."""
        if name in NOOP_NAMES:
            return _noop
        if name.startswith("__") and name != "__path__":  # a module without a file lacks these
            raise AttributeError(name)
        return getattr(_load(), name)


def _load() -> ModuleType:
    if isinstance(sys.modules.get(LOGFIRE), LazyLogfire):
        del sys.modules[LOGFIRE]
        configure()
    return import_module(LOGFIRE)


def _noop(*_: object, **__: object) -> nullcontext["NoopSpan"]:
    return nullcontext(NoopSpan())


class NoopSpan:
    """A span that records nothing."""

    def __getattr__(self, name: str) -> Any:
        """Return a method that does nothing."""
        return _noop
