"""The journal of one decision: what an earlier attempt finished is replayed, and what this one finishes is recorded."""

from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from datetime import datetime
from typing import NamedTuple

import logfire

from ...core.units import Scope
from ..telemetry import counters
from .claim import Token
from .journal import Entries, Journal, NewPin, Record
from .scopes.state import ScopeMoved

MAX_ENTRY_BYTES = 4 * 1024 * 1024  # of one unit; a larger one is run again
MAX_DECISION_BYTES = 32 * 1024 * 1024  # of all units of a decision

_current: ContextVar["DecisionJournal | None"] = ContextVar("decision_journal", default=None)


class Attempt(NamedTuple):
    """One attempt at a decision, as its context was opened."""

    scope: Scope
    version: int
    """The version of the scope."""
    action_id: str
    begun_at: datetime
    """What `ctx.now()` returns."""
    held: Mapping[int, Token]
    """The held events that it decides on, by `seq`."""
    tokens: tuple[Token, ...]
    """The tokens of the events in flight."""


class DecisionJournal:
    """Replays and records the finished units of one attempt at a decision, by their content."""

    def __init__(
        self,
        journal: Journal,
        attempt: Attempt,
        entries: Entries,
        commits: Callable[[], Awaitable[None]],
        *,
        pinned: bool,
    ) -> None:
        """Start with what earlier attempts recorded; `commits` waits for the scope's background commits."""
        self.action_id = attempt.action_id
        self.pinned = pinned
        """Whether the decision's pin is stored."""
        self.call_digests: dict[str, str] = {}
        """The digest of the first tool call with each id: ids of some providers are not unique in a decision."""
        self.replayed = 0
        """How many units were replayed."""
        self._journal = journal
        self._attempt = attempt
        self._entries = {key: deque(found) for key, found in entries.items()}
        self._recorded = Counter({key: len(found) for key, found in entries.items()})
        self._bytes = sum(len(entry) for found in entries.values() for entry in found)
        self._commits = commits
        self.is_over = False
        """Whether it acted, dropped, held or failed."""

    @property
    def replays(self) -> bool:
        """Whether there are recorded units that this attempt has not come to."""
        return any(self._entries.values())

    def take(self, key: str) -> bytes | None:
        """Return the next recorded unit with this key, or None: then run it, and `record` it.

        Raises:
            ScopeMoved: the decision is over.
        """
        self._require_open()
        if not (found := self._entries.get(key)):
            return None
        counters.replayed_units.add(1)
        self.replayed += 1
        return found.popleft()

    async def record(self, key: str, entry: bytes, name: str, asked: bytes | None = None) -> None:
        """Record a finished unit; one that is too large is not recorded, with a warning that has its `name`.

        `asked` is what was asked, as JSON. It is left out if the unit would be too large with it.

        Raises:
            ScopeMoved: the decision is over, or another worker has its events.
            DatabaseUnavailable: the database does not answer.
        """
        self._require_open()
        if not self._fits(entry, name):
            return
        if asked is not None and not self._has_room(len(entry) + len(asked)):
            asked = None
        self._bytes += len(entry) + len(asked or b"")
        nth = self._recorded[key]
        self._recorded[key] += 1  # before the commit: a parallel unit may have the same content
        await self._commits()  # of the held events and drops of earlier decisions
        self._require_open()
        attempt = self._attempt
        pin = None if self.pinned else NewPin(attempt.begun_at, [*attempt.held], attempt.tokens)
        token, action_id = attempt.tokens[-1], attempt.action_id
        record = Record(
            attempt.scope, attempt.version, token, action_id, key, nth, entry, pin, asked
        )
        if not await self._journal.record(record):
            raise ScopeMoved(f"another worker has an event of scope {attempt.scope!r} by now")
        self.pinned = True

    def stop(self) -> None:
        """Record and replay nothing more: tasks that still run may not write to a decision that is over."""
        self.is_over = True

    def _require_open(self) -> None:
        if self.is_over:
            raise ScopeMoved(f"the decision {self.action_id} is over")

    def _has_room(self, size: int) -> bool:
        return size <= MAX_ENTRY_BYTES and self._bytes + size <= MAX_DECISION_BYTES

    def _fits(self, entry: bytes, name: str) -> bool:
        if self._has_room(len(entry)):
            return True
        logfire.warn(
            "{name} is not recorded, so a retry of its decision runs it again: it takes {size} bytes;"
            " at most {one} are recorded of one, and {all} of a decision",
            name=name,
            size=len(entry),
            one=MAX_ENTRY_BYTES,
            all=MAX_DECISION_BYTES,
        )
        return False


def current_journal() -> DecisionJournal | None:
    """Return the journal of the decision whose trigger is running; None outside of one."""
    return _current.get()


def set_current_journal(journal: DecisionJournal | None) -> None:
    """Set the journal of the decision that this task and those it starts take."""
    _current.set(journal)
