"""What a trigger and its tools may use, passed in rather than reached for."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from json import dumps
from uuid import uuid4

import httpx2
from pydantic_ai import Agent, ModelSettings, UsageLimits
from pydantic_ai.models import Model
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from ..config import Settings
from ..infra.guard import GuardedModel
from ..infra.store import EventStore
from .types import Scope


@dataclass(frozen=True)
class ReflexDeps:
    """Dependencies of one decision, given to PydanticAI as `deps` and read in tools as `ctx.deps`."""

    store: EventStore
    http: httpx2.AsyncClient
    sessions: async_sessionmaker[AsyncSession]
    model: Model
    """The model that the settings name; pass it to `agent.run(..., model=deps.model)`."""
    settings: Settings
    _effects: dict[str, int] = field(
        default_factory=dict[str, int], init=False, repr=False, compare=False
    )
    """How often this decision asked for the key of each effect."""
    scope: Scope = "main"
    action_id: str = ""
    """The id that the action will have, the same on a retry; empty outside of a decision."""

    # --- your dependencies start here ---
    # --- your dependencies end here ---

    def within(self, scope: Scope, action_id: str) -> "ReflexDeps":
        """Return the same dependencies for one decision in `scope`."""
        one = object.__new__(type(self))
        # `replace` would take as long as many a decision: it sets every field anew, one by one.
        vars(one).update(vars(self), scope=scope, action_id=action_id, _effects={})
        return one

    def idempotency_key(self, effect: str, *content: str) -> str:
        """Return a key by which the other side notices that an outside effect is repeated.

        It is made of the action's id, the name of the effect, its content, and how often this
        decision had the same effect before. So each effect of a decision has a key of its own. A
        decision that is taken again after a crash sends the same content under the same key. A
        provider's id of the tool call would be another one each time. A mere count could give the
        key of one effect to another when the model answers in another order. The other side would
        drop that one: a repetition is the lesser evil. Outside of a decision, every key is new.

        It is ASCII, and shorter than 255 characters. Ask once for each effect, not for each attempt.
        """
        if not self.action_id:
            return str(uuid4())
        text = dumps([effect, *content])
        key = f"{self.action_id}/{sha256(text.encode()).hexdigest()[:32]}"
        self._effects[key] = count = self._effects.get(key, 0) + 1
        return key if count == 1 else f"{key}/{count}"

    async def run[Output](
        self, agent: Agent["ReflexDeps", Output], prompt: str, *, model: str | None = None
    ) -> Output:
        """Run an agent with the service's limits, and return its output.

        `model` names another one than `DEFAULT_MODEL`, as in `anthropic:claude-haiku-4-5`. It has a
        breaker of its own and shares the budget. While the default is `offline`, all of them are.

        Raises:
            Unavailable: the model cannot be asked now; the decision's events wait.
        """
        chosen = self.model
        if isinstance(chosen, GuardedModel):
            chosen = await chosen.named(model) if model is not None else chosen
            chosen.check()
        result = await agent.run(
            prompt,
            deps=self,
            model=chosen,
            model_settings=ModelSettings(
                timeout=self.settings.model_timeout, max_retries=self.settings.model_retries
            ),
            usage_limits=UsageLimits(
                request_limit=self.settings.model_request_limit,
                total_tokens_limit=self.settings.model_token_limit,
            ),
        )
        return result.output

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[AsyncSession]:
        """Open a short transaction: committed at the end of the block, rolled back on an error.

        Do not call a model inside it: an open transaction holds back the database's clean-up.
        """
        async with self.sessions.begin() as session:
            yield session
