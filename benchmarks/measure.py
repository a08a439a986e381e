"""One measurement, in a process of its own: `python -m benchmarks.measure MODULE WORK URL COUNT FILE`."""

import asyncio
import importlib
import os
import sys
from pathlib import Path

import my_agent

from .conditions import SOURCE, loop_factory
from .gate import imported


def main() -> None:
    """Run one function of a module and leave its outcome in a file."""
    name, work, url, count, path = sys.argv[1:]
    if os.environ[SOURCE] not in map(str, Path(my_agent.__file__).parents):
        raise SystemExit(f"{my_agent.__file__} was imported instead of {os.environ[SOURCE]}")
    function = getattr(importlib.import_module(f".{name}", __package__), work)
    imported()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:  # as `serve` and `worker` do
        runner.run(function(url, int(count))).write(Path(path))


if __name__ == "__main__":
    main()
