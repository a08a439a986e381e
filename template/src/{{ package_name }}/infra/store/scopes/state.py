"""Reads the state of a scope before a decision: its version, its notes, and whether an earlier event comes first."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, cast

import logfire

from ....core.units import Scope, Seconds
from ...database import Fetch, to_json
from ...text import storable_json
from ..claim import Token, columns
from ..codec import load_json
from ..refusal import InvalidEvent, find_unstorable
from .pins import Pin, resolve_pin

NO_NOTES = "{}"  # as JSON
ERASURE_STEP = 1_000_000
"""What an erasure adds to a scope's version, so that it differs from the drops of a decision under way, which add one."""

# `version` changes when events leave the scope, `held` when they enter it. Together they show whether a cached
# context is current, at the price of one small read.
#
# `behind` finds an earlier delivery that was claimed once and is not settled: leased, with an expired lease,
# released or deferred. It must be handled first. In relaxed order, one that waits for its retry or for newer
# code, and so has an error, does not count. One that was never claimed cannot be earlier, since a claim takes
# none after it. For a block of several deliveries there is none between them either.
#
# `ours` counts the deliveries of the block whose tokens are valid.
#
# The row of `decisions`, if there is one, is the scope's pin: see `pins`. It comes before the order of events.
STATE = """
SELECT coalesce(s.version, 0) AS version, coalesce(s.scratch, '{}') AS scratch, s.last_action_at, s.wake_at,
       (SELECT count(*) FROM deliveries d
         WHERE d.subscriber = $1 AND d.scope = $2 AND d.held_at IS NOT NULL) AS held,
       (SELECT greatest(extract(epoch FROM d.due_at - now()), 0)::float8 FROM deliveries d
         WHERE d.subscriber = $1 AND d.scope = $2
           AND d.seq < ($3::bigint[])[cardinality($3::bigint[])] AND d.seq <> ALL ($3::bigint[])
           AND d.fence <> 0 AND d.held_at IS NULL AND d.dead_at IS NULL
           AND ($5 OR d.lease IS NOT NULL OR d.error IS NULL OR d.due_at <= now())
         ORDER BY d.seq
         LIMIT 1) AS behind,
       (SELECT count(*) FROM deliveries d
         WHERE d.subscriber = $1 AND d.seq = ANY ($3::bigint[])
           AND d.fence = ($4::bigint[])[width_bucket(d.seq, $3::bigint[])]) AS ours,
       p.action_id, p.begun_at, p.seqs, p.waiting IS NOT NULL AS waits
  FROM (VALUES (1)) AS one
  LEFT JOIN scopes s ON s.subscriber = $1 AND s.scope = $2
  LEFT JOIN decisions p ON p.subscriber = $1 AND p.scope = $2
"""


class ScopeMoved(Exception):
    """Another worker changed the scope meanwhile. Rebuild its context and decide again."""


class EarlierEventPending(Exception):
    """An earlier delivery of the scope comes first. Release this one, which keeps its place.

    `seconds` is how long until the earlier one is due; 0 if it is leased or due now.
    """

    def __init__(self, scope: Scope, seconds: Seconds) -> None:
        super().__init__(f"scope {scope!r} has an earlier event that is not handled yet")
        self.scope = scope
        self.seconds = seconds


class ScopeState(NamedTuple):
    """A scope's version and number of held events, and what its context cannot derive from its events."""

    version: int
    held: int
    scratch: dict[str, Any]
    last_action_at: datetime | None
    wake_at: datetime | None
    """When its trigger is evaluated again without an event; None if no trigger waits."""
    pin: Pin | None = None
    """The unfinished decision that these deliveries continue."""


class PendingDecision(NamedTuple):
    """The deliveries that a decision is about to handle; no earlier one of the scope may be unsettled."""

    scope: Scope
    tokens: Sequence[Token]
    """The tokens of the deliveries, by `seq`; empty if the order does not matter."""
    strict: bool
    """Whether an earlier delivery that waits for its retry comes first (EVENT_ORDER=strict)."""

    @property
    def last(self) -> int:
        """The `seq` of the last delivery; 0 if there is none."""
        return max((token.seq for token in self.tokens), default=0)


async def read_state(fetch: Fetch, subscriber: str, pending: PendingDecision) -> ScopeState:
    """Return the state of a scope; one without a row has version 0.

    Raises:
        ScopeMoved: another worker claimed one of the deliveries meanwhile.
        EarlierEventPending: an earlier delivery of the scope comes first.
        DecisionPending: an unfinished decision of the scope comes first.
    """
    scope = pending.scope
    row = (await fetch(STATE, subscriber, scope, *columns(pending.tokens), pending.strict))[0]
    if row["ours"] < len(pending.tokens):
        raise ScopeMoved(f"another worker has an event of scope {scope!r} by now")
    pin = await resolve_pin(fetch, subscriber, scope, pending.tokens, row)
    if pin is None and row["behind"] is not None:
        raise EarlierEventPending(scope, row["behind"])
    notes = _read_notes(scope, row["scratch"])
    known = (row["version"], row["held"], notes, row["last_action_at"], row["wake_at"])
    return ScopeState(*known, pin)


def _read_notes(scope: Scope, scratch: Any) -> dict[str, Any]:
    try:
        notes = cast("object", load_json(scratch))
        if isinstance(notes, dict):
            return cast("dict[str, Any]", notes)
        reason = "they are not an object"
    except ValueError as error:  # earlier releases stored notes that are nested too deeply
        reason = str(error)
    logfire.error(
        "The notes of {scope} cannot be read and start empty: {error}", scope=scope, error=reason
    )
    return {}


def write_notes(scratch: Mapping[str, Any]) -> str:
    """Return a scope's notes as JSON, after reading it back.

    Raises:
        InvalidEvent: the notes cannot be stored as JSON or read back.
    """
    notes = storable_json(scratch)
    problem = find_unstorable(notes, "scratch")
    if problem is not None:
        raise problem
    try:
        written = to_json(notes)
        load_json(written)
    except ValueError as error:
        raise InvalidEvent(
            f"scratch: it is not valid JSON ({error}): keep flat values in it"
        ) from error
    return written
