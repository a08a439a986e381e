"""Under which conditions is measured: as the service is shipped, and tuned for the benchmark.

A condition is a set of environment variables, so that a measured process reads it as the service reads its
settings. All other variables that settings have are kept from it.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PAYLOAD_BYTES = "BENCH_PAYLOAD_BYTES"
BATCH = "BENCH_BATCH"
SOURCE = "BENCH_SOURCE"
"""The folder whose `my_agent` a process has to have imported."""


@dataclass(frozen=True, eq=False)
class Conditions:
    """What a measured process finds."""

    title: str
    log_level: str
    payload: int
    """Bytes of an event's payload as JSON."""
    batch: int
    """Events that a batch handler takes at once; four batches may be in flight, as in the batch loop."""
    settings: Mapping[str, str] = field(default_factory=dict[str, str])
    """Settings that are not left at their defaults."""

    def variables(self) -> dict[str, str]:
        """Return the environment variables that make these conditions."""
        ours = {PAYLOAD_BYTES: str(self.payload), BATCH: str(self.batch)}
        return {"LOG_LEVEL": self.log_level, **self.settings, **ours}


SHIPPED = Conditions("as shipped", "INFO", payload=250, batch=100)
TUNED = Conditions("tuned", "WARNING", payload=52, batch=250, settings={"AGENT_PREFETCH": "1000"})


@dataclass(frozen=True)
class Side:
    """Whose code is measured: this repository's, or that of another rendered project beside it."""

    name: str
    source: Path
    """The `src` of a rendered project."""


def environment(conditions: Conditions, side: Side, root: Path) -> dict[str, str]:
    """Return the whole environment of a measured process."""
    from my_agent.config import Settings

    settings = {name.upper() for name in Settings.model_fields}
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name.upper() not in settings and not name.startswith(("OTEL_", "LOGFIRE_"))
    }
    path = os.pathsep.join((str(side.source), str(root)))
    return {
        **inherited,
        **conditions.variables(),
        "PYTHONPATH": path,
        SOURCE: str(side.source),
        "PYTHONWARNINGS": "ignore",
    }


def payload_bytes() -> int:
    """Return how long the payloads of this process are to be."""
    return int(os.environ.get(PAYLOAD_BYTES, SHIPPED.payload))


def batch_size() -> int:
    """Return how many events a batch handler of this process takes at once."""
    return int(os.environ.get(BATCH, SHIPPED.batch))


def loop_factory() -> Callable[[], Any] | None:
    """Return what makes the event loop that `serve` and `worker` run on."""
    import uvicorn

    return uvicorn.Config("", log_config=None).get_loop_factory()
