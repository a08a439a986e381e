"""One measurement, in a process of its own: `python -m benchmarks.measure CONTENDER WORK URL COUNT`."""

import importlib
import sys

import uvloop


def main() -> None:
    """Do one contender's work and report what came of it on standard output."""
    contender, work, url, count = sys.argv[1:]
    module = importlib.import_module(f".contenders.{contender}", __package__)
    uvloop.run(getattr(module, work)(url, int(count))).report()


if __name__ == "__main__":
    main()
