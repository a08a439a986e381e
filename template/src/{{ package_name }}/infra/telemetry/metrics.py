"""Metrics of models and of the queue; docs/operations.md describes how to use them.

Counters start at zero in each process. Gauges are read from the database, so all workers report the same.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NoReturn

import asyncpg
import logfire
from pydantic_ai.messages import ModelResponse

from ...core.units import Seconds
from ..database import DATABASE_UNAVAILABLE
from ..store.stats import QueueStats

GAUGE_INTERVAL: Seconds = 15.0

model_tokens = logfire.metric_counter(
    "model.tokens", unit="{token}", description="Input and output tokens of models"
)
model_cost = logfire.metric_counter(
    "model.cost", unit="USD", description="Their list price, for known models"
)

_depth = logfire.metric_gauge(
    "queue.depth", unit="{event}", description="Deliveries that are pending"
)
_in_flight = logfire.metric_gauge(
    "queue.in_flight", unit="{event}", description="Deliveries that are in flight"
)
_held = logfire.metric_gauge("queue.held", unit="{event}", description="Deliveries that are held")
_dead = logfire.metric_gauge("queue.dead", unit="{event}", description="Dead letters")
_pinned = logfire.metric_gauge(
    "decisions.pinned", unit="{scope}", description="Scopes with an unfinished decision"
)
_journal = logfire.metric_gauge("journal.size", unit="By", description="Size of the journal")
_lag = logfire.metric_gauge("queue.lag", unit="s", description="Age of the oldest pending delivery")


def count_model(response: ModelResponse) -> None:
    """Count the tokens of a model's response, and their price if it is known."""
    model = {"model": response.model_name or "unknown"}
    model_tokens.add(response.usage.input_tokens, {**model, "direction": "input"})
    model_tokens.add(response.usage.output_tokens, {**model, "direction": "output"})
    try:
        model_cost.add(float(response.cost().total_price), model)
    except (AssertionError, LookupError, ValueError):
        return  # the price is unknown


async def measure_queue(stats: Callable[[], Awaitable[Sequence[QueueStats]]]) -> NoReturn:
    """Update the gauges every `GAUGE_INTERVAL`; while the database is unavailable, they keep their values."""
    while True:
        try:
            with logfire.suppress_instrumentation():
                for each in await stats():
                    labels = {"subscriber": each.subscriber}
                    _depth.set(each.depth, labels)
                    _in_flight.set(each.in_flight, labels)
                    _held.set(each.held, labels)
                    _dead.set(each.dead, labels)
                    _pinned.set(each.pinned, labels)
                    _journal.set(each.journal_bytes)
                    _lag.set(each.oldest_seconds or 0.0, labels)
        except (
            *DATABASE_UNAVAILABLE,
            asyncpg.PostgresError,
        ) as error:  # nothing depends on a gauge
            logfire.warn("The queue was not measured: {error}", error=repr(error))
        await asyncio.sleep(GAUGE_INTERVAL)
