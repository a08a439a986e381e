"""One measurement, in a process of its own: `python -m benchmarks.measure CONTENDER WORK URL COUNT FILE`."""

import importlib
import sys
from pathlib import Path

import uvloop


def main() -> None:
    """Do one contender's work and leave what came of it in a file."""
    contender, work, url, count, path = sys.argv[1:]
    module = importlib.import_module(f".contenders.{contender}", __package__)
    uvloop.run(getattr(module, work)(url, int(count))).write(Path(path))


if __name__ == "__main__":
    main()
