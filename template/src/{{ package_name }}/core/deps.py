"""The dependencies of a decision, which triggers and tools get as an argument."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from json import dumps
from typing import TYPE_CHECKING
from uuid import uuid4

import httpx2
from pydantic_ai import Agent, ModelSettings, RunContext, UsageLimits
from pydantic_ai.models import Model

from ..config import Settings
from ..infra.model.boundary import Boundary
from ..infra.model.drafting import DraftingModel
from ..infra.model.guard import GuardedModel
from ..infra.model.journaled import call_key, journal_of, journaled, replaying
from ..infra.store import EventStore
from ..infra.store.drafts import Draft
from .prompt import contain_prompt
from .units import Scope

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

CALLS_PER_REQUEST = 10  # tool calls, on average; a run's calls beyond that are not executed


@dataclass(frozen=True)
class ReflexDeps:
    """Dependencies of one decision, given to PydanticAI as `deps` and read in tools as `ctx.deps`."""

    store: EventStore
    http: httpx2.AsyncClient
    sessions: "async_sessionmaker[AsyncSession]"
    model: Model
    """The model that the settings name; pass it to `agent.run(..., model=deps.model)`."""
    settings: Settings
    _effects: dict[str, int] = field(
        default_factory=dict[str, int], init=False, repr=False, compare=False
    )
    """How often this decision requested each key of an effect."""
    _drafts: "dict[str, Draft | None]" = field(
        default_factory=dict[str, "Draft | None"], init=False, repr=False, compare=False
    )
    """The draft of this decision, by its action's id."""
    scope: Scope = "main"
    action_id: str = ""
    """The id of this decision's action, which is the same on a retry; empty outside of a decision."""

    # --- your dependencies start here ---
    # --- your dependencies end here ---

    def within(self, scope: Scope, action_id: str) -> "ReflexDeps":
        """Return the same dependencies for one decision in `scope`."""
        return replace(self, scope=scope, action_id=action_id)

    def idempotency_key(self, effect: str, *content: str) -> str:
        """Return a key by which a receiver detects that an external effect is repeated.

        It consists of the action's id and a hash of the effect's name and content; if the decision repeats the
        same effect, a count is added. So each effect of a decision has its own key, and a decision that is taken
        again after a crash sends the same content with the same key. A mere count could give one effect the key of
        another if the model answers in another order, and the receiver would then drop it. Outside of a decision,
        each key is new. In a tool, use `call_key`.

        The key is ASCII and shorter than 255 characters. Call this once for each effect, not for each attempt.
        """
        if not self.action_id:
            return str(uuid4())
        text = dumps([effect, *content])
        key = f"{self.action_id}/{sha256(text.encode()).hexdigest()[:32]}"
        self._effects[key] = count = self._effects.get(key, 0) + 1
        return key if count == 1 else f"{key}/{count}"

    def call_key(self, ctx: "RunContext[ReflexDeps]") -> str:
        """Return the key of the tool call that `ctx` belongs to: `<action id>/<tool call id>`.

        A receiver detects a repeated effect by it. It is the same if the call is run again after a crash, since the model's
        answer with the call's id is recorded, and differs between two calls of a decision. Outside of a decision, each
        key is new. Within one tool call, add a name if you send several effects: `f"{key}/refund"`.
        """
        if not self.action_id or not ctx.tool_call_id:
            return str(uuid4())
        return call_key(self.action_id, ctx.tool_call_id)

    async def run[Output](
        self, agent: Agent["ReflexDeps", Output], prompt: str, *, model: str | None = None
    ) -> Output:
        """Run an agent with the service's limits, and return its output.

        Within a decision, finished model requests and tool calls are recorded, and a retry of the decision does not repeat
        them. The prompt is cut to `PROMPT_MAX_BYTES`, and the instructions tell the agent that events and results of tools
        are data. `Boundary` cleans the model's answers, and bounds the arguments and results of tools.

        `model` names a model other than `DEFAULT_MODEL`, such as `anthropic:claude-haiku-4-5`. It has its own circuit
        breaker and shares the budget. If the default is `offline`, every model is.

        Raises:
            Unavailable: the model is unavailable, or the budget is spent; the decision's events are deferred.
        """
        return await self._run(agent, prompt, model)

    async def stream[Output](
        self, agent: Agent["ReflexDeps", Output], prompt: str, *, model: str | None = None
    ) -> Output:
        """Run an agent like `run`, and show its text to the scope's WebSocket clients while it is generated.

        Only agents with text as output (`output_type=str`) are shown, in scopes `ws:<client>`. The text is not
        stored, and dropped where it would have to wait, so the action is what counts. If the run fails, is repeated or
        refused by an output validator, clients are told to discard its text. Of several runs at once in one
        decision, only the first is shown.

        Raises:
            Unavailable: as `run`.
        """
        draft = self._draft()
        if draft is None:
            return await self._run(agent, prompt, model)
        with draft.writing() as own:
            return await self._run(agent, prompt, model, own)

    def _draft(self) -> Draft | None:
        """Return the draft of this attempt at the decision."""
        if self.action_id not in self._drafts:
            self._drafts[self.action_id] = self.store.drafts.open(self.scope, self.action_id)
        return self._drafts[self.action_id]

    async def _run[Output](
        self,
        agent: Agent["ReflexDeps", Output],
        prompt: str,
        model: str | None,
        draft: Draft | None = None,
    ) -> Output:
        chosen, journal = self.model, journal_of(self.action_id)
        if isinstance(chosen, GuardedModel):
            chosen = await chosen.named(model) if model is not None else chosen
            if journal is None or not journal.replays:  # a replay needs no provider
                chosen.check()
        most = self.settings.prompt_max_bytes
        boundary = Boundary(most, self.settings.model_request_limit * CALLS_PER_REQUEST)
        shown = chosen if draft is None else DraftingModel(chosen, draft)
        durable, capabilities = journaled(shown, boundary, journal)
        with replaying(journal):
            result = await agent.run(
                contain_prompt(prompt, self.scope, most),
                deps=self,
                model=durable,
                model_settings=ModelSettings(
                    timeout=self.settings.model_timeout, max_retries=self.settings.model_retries
                ),
                usage_limits=UsageLimits(
                    request_limit=self.settings.model_request_limit,
                    total_tokens_limit=self.settings.model_token_limit,
                ),
                capabilities=capabilities,
            )
        return result.output

    @asynccontextmanager
    async def session(self) -> "AsyncGenerator[AsyncSession]":
        """Open a short transaction: committed at the end of the block, rolled back on an error.

        Do not call a model inside it: an open transaction holds back the database's clean-up.
        """
        async with self.sessions.begin() as session:
            yield session
