"""Tracks commits that decisions do not wait for: holds, acks of refused events, and drops."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import logfire

from ...core.units import Scope
from ..database import DatabaseUnavailable
from ..store import EventStore, Token
from ..store.scopes import CommitCallback


@dataclass
class _PendingCommits:
    """The background commits of a scope that are under way."""

    commits: int = 0
    done: asyncio.Event = field(default_factory=asyncio.Event)


class BackgroundCommits:
    """The background commits of each scope; if one fails, `on_failure` is called with the scope."""

    def __init__(self, store: EventStore, on_failure: Callable[[Scope], None]) -> None:
        self._queue = store.queue
        self._on_failure = on_failure
        self._pending: dict[Scope, _PendingCommits] = {}

    def track(self, scope: Scope, tokens: tuple[Token, ...]) -> CommitCallback:
        """Return the callback for a background commit."""
        pending = self._pending.get(scope)
        if pending is None:
            pending = self._pending[scope] = _PendingCommits()
        pending.commits += 1
        return partial(self._on_commit, scope, tokens)

    def _on_commit(self, scope: Scope, tokens: tuple[Token, ...], result: bool | Exception) -> None:
        pending = self._pending[scope]
        pending.commits -= 1
        if not pending.commits:
            del self._pending[scope]
            pending.done.set()
        if isinstance(result, DatabaseUnavailable):
            logfire.warn("Waiting for the database: {error}", error=str(result))
            self._queue.background.start(
                self._queue.release_when_available(*tokens), "waiting for the database"
            )
        elif isinstance(result, Exception):
            # Their leases are no longer renewed: they expire, and the events are claimed again.
            self._queue.settled(tokens)
            logfire.warn("Events were not settled: {error}", error=repr(result))
        if result is not True:
            for token in tokens:
                self._queue.requeues.note(token)
            self._on_failure(scope)

    async def wait(self, scope: Scope) -> None:
        """Wait for the background commits of a scope."""
        while pending := self._pending.get(scope):
            await pending.done.wait()

    async def wait_for_all(self) -> None:
        """Wait for all background commits so far."""
        for scope in list(self._pending):
            await self.wait(scope)
