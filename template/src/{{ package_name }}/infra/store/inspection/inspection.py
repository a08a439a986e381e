"""The reads of the console, as one object: `store.inspection`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import logfire

from ..pages import is_within
from . import decision, life, scope_list, scope_state, search, workers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ....core.units import Scope
    from ..connections import StoreConnections
    from .decision import DecisionView
    from .life import ScopeLife
    from .scope_list import ScopePage
    from .scope_state import ScopeState
    from .search import EventSearch, FoundPage
    from .workers import SubscriptionView, Worker


class Inspection:
    """What one subscriber perceives, remembers and decides.

    `within` are prefixes of scopes, of which one must match: what is in other scopes does not exist for the caller.
    """

    def __init__(self, connections: StoreConnections, subscriber: str) -> None:
        self._fetch = connections.readers.inspect
        self._max_bytes = connections.settings.api_max_page_bytes
        self._subscriber = subscriber

    async def scopes(
        self,
        search: str = "",
        *,
        after: str | None = None,
        limit: int = 50,
        within: Sequence[str] | None = None,
    ) -> ScopePage:
        """Return the scopes of the newest events, then the others by name; `search` is a part of their names.

        `after` is the cursor that the page before returned. Case does not matter to `search`.

        Raises:
            ValueError: `after` is not a cursor of a page.
        """
        asked = scope_list.ScopeSearch(search, within)
        with logfire.suppress_instrumentation():
            return await scope_list.read_scopes(self._fetch, self._subscriber, asked, after, limit)

    async def scope(
        self, scope: Scope, *, within: Sequence[str] | None = None
    ) -> ScopeState | None:
        """Return the state of a scope now; None if neither the queue nor the newest part of the log has it."""
        if not is_within(scope, within):
            return None
        with logfire.suppress_instrumentation():
            return await scope_state.read_scope(self._fetch, self._subscriber, scope)

    async def scope_life(
        self,
        scope: Scope,
        *,
        before: int | None = None,
        limit: int = 100,
        within: Sequence[str] | None = None,
    ) -> ScopeLife:
        """Return what happened in a scope, newest first: events, actions and drops with a `seq` below `before`.

        Actions and drops, the events that they cover, and unsettled events are of all time. Events that were settled
        without an action are found in the part of the log that `looked_at` and `oldest` name.
        """
        if not is_within(scope, within):
            return life.NO_LIFE
        with logfire.suppress_instrumentation():
            return await life.read_life(
                self._fetch, self._subscriber, scope, before, limit, self._max_bytes
            )

    async def search(
        self, what: EventSearch, *, before: int | None = None, limit: int = 50
    ) -> FoundPage:
        """Return the newest matching events with a `seq` below `before`, from one scan of bounded length."""
        with logfire.suppress_instrumentation():
            return await search.search_events(self._fetch, what, before, limit, self._max_bytes)

    async def decision(
        self, action_id: str, *, within: Sequence[str] | None = None
    ) -> DecisionView | None:
        """Return a decision by the id of its action, finished or not; None if nothing of it is stored."""
        with logfire.suppress_instrumentation():
            found = await decision.read_decision(
                self._fetch, self._subscriber, action_id, self._max_bytes
            )
        return found if found is not None and is_within(found.scope, within) else None

    async def workers(self) -> list[Worker]:
        """Return the connections that claim, of all subscribers."""
        return await workers.read_workers(self._fetch)

    async def subscriptions(self) -> list[SubscriptionView]:
        """Return all subscribers with their types, and since when which are paused."""
        return await workers.read_subscriptions(self._fetch)
