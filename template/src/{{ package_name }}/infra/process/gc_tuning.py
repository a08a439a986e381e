"""Tune the garbage collector for objects that live as long as the process."""

import gc
from collections.abc import Generator
from contextlib import contextmanager

THRESHOLD = 10_000  # net allocations before a collection of the youngest generation


@contextmanager
def paused_gc() -> Generator[None]:
    """Disable the collector for the block, which imports modules and so creates little garbage.

    Collections during imports take a tenth of a start.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def freeze_gc() -> None:
    """Exclude the imported modules from collections, and raise the threshold.

    Traversing them takes a fifth of the time of a busy loop. The threshold exceeds the objects of one
    claim's events, which are freed before a collection.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(THRESHOLD)
