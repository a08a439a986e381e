"""The garbage collector, which need not walk what stays for as long as the process does."""

import gc
from collections.abc import Generator
from contextlib import contextmanager

THRESHOLD = 10_000  # objects made and not freed before the youngest are looked at


@contextmanager
def resting_collector() -> Generator[None]:
    """Keep the collector off for the block, in which modules are imported: they make no garbage.

    It would walk them again and again, which takes a tenth of a start.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def spare_collector() -> None:
    """Keep the collector off what was imported, which stays as long as the process does.

    To walk all that again and again takes a fifth of the time of a busy loop. The threshold lets a
    claim's worth of events come and go before the collector looks at them.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(THRESHOLD)
