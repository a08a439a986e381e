"""What is counted and measured, for whoever watches the service; docs/operations.md says what to make of it.

Counters begin at zero with each process. The gauges are the database's truth, the same from every worker.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NoReturn

import asyncpg
import logfire
from pydantic_ai.messages import ModelResponse

from ..core.types import Seconds
from .database import DATABASE_AWAY
from .store.admin import QueueStats

GAUGE_INTERVAL: Seconds = 15.0

model_tokens = logfire.metric_counter(
    "model.tokens", unit="{token}", description="Tokens that models took in and gave out"
)
model_cost = logfire.metric_counter(
    "model.cost", unit="USD", description="Their price by the list, for models that are known"
)

_depth = logfire.metric_gauge("queue.depth", unit="{event}", description="Owed and not begun")
_in_flight = logfire.metric_gauge("queue.in_flight", unit="{event}", description="Being handled")
_held = logfire.metric_gauge("queue.held", unit="{event}", description="In working memories")
_dead = logfire.metric_gauge("queue.dead", unit="{event}", description="Dead letters")
_lag = logfire.metric_gauge("queue.lag", unit="s", description="Age of the oldest that is owed")


def count_model(response: ModelResponse) -> None:
    """Count the tokens of a model's answer, and their price if it is known."""
    model = {"model": response.model_name or "unknown"}
    model_tokens.add(response.usage.input_tokens, {**model, "direction": "input"})
    model_tokens.add(response.usage.output_tokens, {**model, "direction": "output"})
    try:
        model_cost.add(float(response.cost().total_price), model)
    except (AssertionError, LookupError, ValueError):
        return  # no list has its price


async def measure_queue(stats: Callable[[], Awaitable[Sequence[QueueStats]]]) -> NoReturn:
    """Set the gauges for ever; while the database does not answer they stay as they are."""
    while True:
        try:
            with logfire.suppress_instrumentation():
                for each in await stats():
                    whose = {"subscriber": each.subscriber}
                    _depth.set(each.depth, whose)
                    _in_flight.set(each.in_flight, whose)
                    _held.set(each.held, whose)
                    _dead.set(each.dead, whose)
                    _lag.set(each.oldest_seconds or 0.0, whose)
        except (*DATABASE_AWAY, asyncpg.PostgresError) as error:  # nothing depends on a gauge
            logfire.warn("The queue was not measured: {error}", error=repr(error))
        await asyncio.sleep(GAUGE_INTERVAL)
