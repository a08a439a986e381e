"""The pin of a scope: the unfinished decision that comes before all other events of the scope.

Its next attempt gets the pinned events. Those that are neither held nor in flight here (a batch failed, and its events come
back one by one) are held first. A pin whose event is dead or gone is void, and deleted.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

import logfire

from ....core.units import Scope, Seconds
from ...database import Fetch, Row
from ..claim import NEW_FENCE, Token

LEASED_DELAY: Seconds = 1.0  # between looks at a pinned event that another worker has leased
MIN_DELAY: Seconds = 0.2  # keeps events that wait for a decision from being claimed in a loop

PINNED = """
SELECT d.seq, d.held_at IS NOT NULL AS held, d.lease IS NOT NULL AS leased,
       greatest(extract(epoch FROM d.due_at - now()), 0)::float8 AS seconds
  FROM deliveries d
 WHERE d.subscriber = $1 AND d.seq = ANY ($2::bigint[]) AND d.dead_at IS NULL
"""

# Holds the pinned events ($3) that are not in flight here: their other claims become stale.
ADOPT = f"""
WITH adopted AS (
    UPDATE deliveries d
       SET held_at = now(), lease = NULL, fence = {NEW_FENCE}
     WHERE d.subscriber = $1 AND d.seq = ANY ($3::bigint[]) AND d.held_at IS NULL
)
UPDATE decisions SET seq = $4 WHERE subscriber = $1 AND scope = $2
"""  # noqa: S608 - interpolates constant SQL only

# Ends a decision that led to no action. Its next attempt may have the same id, so its entries go, too.
END = """
WITH ended AS (
    DELETE FROM decisions WHERE subscriber = $1 AND scope = $2 AND action_id = $3 RETURNING action_id
)
DELETE FROM journal WHERE action_id IN (SELECT action_id FROM ended)
"""


class DecisionPending(Exception):
    """An unfinished decision of the scope comes first. Release this event, which keeps its place.

    `seconds` is how long to wait for it.
    """

    def __init__(self, scope: Scope, seconds: Seconds) -> None:
        super().__init__(f"scope {scope!r} has an unfinished decision, which comes first")
        self.scope = scope
        self.seconds = seconds


class Pin(NamedTuple):
    """An unfinished decision, of which at least one unit is recorded."""

    action_id: str
    begun_at: datetime
    """What `ctx.now()` returns on each attempt."""
    seqs: frozenset[int]
    """The `seq` of each event that it decides on."""

    def own(self, tokens: Iterable[Token]) -> tuple[Token, ...]:
        """Return the tokens of pinned events."""
        return tuple(token for token in tokens if token.seq in self.seqs)

    def others(self, tokens: Iterable[Token]) -> tuple[Token, ...]:
        """Return the tokens of events that wait for the decision."""
        return tuple(token for token in tokens if token.seq not in self.seqs)


async def resolve_pin(
    fetch: Fetch, subscriber: str, scope: Scope, tokens: Iterable[Token], row: Row
) -> Pin | None:
    """Return the scope's pin, if the pinned decision is the one that `tokens` begin; `row` has its columns.

    Returns None if there is none, or a void one, which it deletes.

    Raises:
        DecisionPending: `tokens` are of other events, which wait for the pinned decision.
    """
    if row["action_id"] is None:
        return None
    pin = Pin(row["action_id"], row["begun_at"], frozenset(row["seqs"]))
    found = await fetch(PINNED, subscriber, list(pin.seqs))
    waiting = [each for each in found if not each["held"]]
    if not row["waits"] and (len(found) < len(pin.seqs) or not waiting):
        logfire.info("An unfinished decision of {scope} is void: an event is gone", scope=scope)
        await fetch(END, subscriber, scope, pin.action_id)
        return None
    own = {token.seq for token in pin.own(tokens)}
    if not own:
        seconds = (
            min(each["seconds"], LEASED_DELAY) if each["leased"] else each["seconds"]
            for each in waiting
        )
        raise DecisionPending(scope, max([*seconds, MIN_DELAY]))
    if missing := sorted({each["seq"] for each in waiting} - own):
        await fetch(ADOPT, subscriber, scope, missing, max(own))
    return pin
