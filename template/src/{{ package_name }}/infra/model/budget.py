"""The hourly budget of models, counted in the database for all processes and across restarts."""

from decimal import Decimal
from typing import NamedTuple

import logfire
from pydantic_ai.messages import ModelResponse

from ..database import Fetch
from .breaker import Unavailable

SPENT = """
SELECT coalesce(u.tokens, 0) AS tokens, coalesce(u.cost, 0) AS cost,
       extract(epoch FROM h.hour + interval '1 hour' - now())::float8 AS seconds_left
  FROM (SELECT date_trunc('hour', now()) AS hour) AS h
  LEFT JOIN model_usage u ON u.hour = h.hour
"""

SPEND = """
INSERT INTO model_usage (hour, requests, tokens, cost)
VALUES (date_trunc('hour', now()), 1, $1, $2)
    ON CONFLICT (hour) DO UPDATE
   SET requests = model_usage.requests + 1, tokens = model_usage.tokens + excluded.tokens,
       cost = model_usage.cost + excluded.cost
"""


class Spent(NamedTuple):
    """What the models have used in this hour, of all processes together."""

    tokens: int
    token_limit: int | None
    cost: float
    """In US dollars; 0 without a limit on them."""
    cost_limit: float | None


class Budget:
    """The most tokens and US dollars of each hour; None means no limit.

    Requests that run when the budget is exhausted are completed, and counted.
    """

    def __init__(self, fetch: Fetch, tokens: int | None, dollars: float | None) -> None:
        self._fetch = fetch
        self._tokens = tokens
        self._dollars = dollars

    @property
    def limited(self) -> bool:
        """Whether there is a limit."""
        return self._tokens is not None or self._dollars is not None

    async def spent(self) -> "Spent | None":
        """Return what this hour has spent, with the limits; None without a limit."""
        if not self.limited:
            return None
        row = (await self._fetch(SPENT))[0]
        return Spent(row["tokens"], self._tokens, float(row["cost"]), self._dollars)

    async def check(self) -> None:
        """Check that this hour's budget is not exhausted.

        Raises:
            Unavailable: it is exhausted, until the next hour.
        """
        if not self.limited:
            return
        spent = (await self._fetch(SPENT))[0]
        if self._tokens is not None and spent["tokens"] >= self._tokens:
            reason = f"MODEL_TOKENS_PER_HOUR={self._tokens} are spent"
        elif self._dollars is not None and spent["cost"] >= self._dollars:
            reason = f"MODEL_COST_PER_HOUR={self._dollars:g} dollars are spent"
        else:
            return
        raise Unavailable(reason, spent["seconds_left"])

    async def spend(self, response: ModelResponse) -> None:
        """Add the usage of a response."""
        if self.limited:
            await self._fetch(SPEND, response.usage.total_tokens, self._cost(response))

    def _cost(self, response: ModelResponse) -> Decimal:
        if self._dollars is None:
            return Decimal(0)
        try:
            return response.cost().total_price
        except (AssertionError, LookupError, ValueError) as error:
            logfire.warn(
                "The price of {model} is unknown, so MODEL_COST_PER_HOUR does not count it: set"
                " MODEL_TOKENS_PER_HOUR instead. {error}",
                model=response.model_name,
                error=str(error),
            )
            return Decimal(0)
