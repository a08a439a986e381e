"""Commands show warnings and nothing below. Logfire takes longer to load than a command to do its work: it waits for one."""

import os
import sys
from contextlib import nullcontext
from importlib import import_module
from types import ModuleType
from typing import Any

SERVICES = frozenset({"dev", "serve", "worker"})
"""The commands that run the service, with all its telemetry."""

LOGFIRE = "logfire"
UNSEEN = frozenset({"debug", "info", "notice", "span", "suppress_instrumentation", "trace"})
"""What of Logfire shows nothing in a command."""


def keep_telemetry_out() -> None:
    """Let this process import Logfire without loading it, until there is a warning to show."""
    if LOGFIRE in sys.modules:  # a process that runs the service, or tests
        return
    # Its plugin for Pydantic would load it with the first model, and observes nothing by default.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "logfire-plugin")
    sys.modules[LOGFIRE] = Unloaded(LOGFIRE)


def configure() -> None:
    """Show warnings on the terminal; telemetry that is not loaded yet does so once it is."""
    if not isinstance(sys.modules.get(LOGFIRE), Unloaded):
        from ..infra.observability import configure_for_commands

        configure_for_commands()


class Unloaded(ModuleType):
    """Stands for Logfire, and loads and configures it for whatever may be seen."""

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of Logfire, or what does nothing in its place."""
        if name in UNSEEN:
            return _nothing
        if name.startswith("__") and name != "__path__":  # which a module without a file lacks
            raise AttributeError(name)
        return getattr(_load(), name)


def _load() -> ModuleType:
    if isinstance(sys.modules.get(LOGFIRE), Unloaded):
        del sys.modules[LOGFIRE]
        configure()
    return import_module(LOGFIRE)


def _nothing(*_: object, **__: object) -> nullcontext["Nothing"]:
    return nullcontext(Nothing())


class Nothing:
    """A span that nobody sees."""

    def __getattr__(self, name: str) -> Any:
        """Return a method that does nothing."""
        return _nothing
