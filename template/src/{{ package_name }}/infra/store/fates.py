"""The state of an event for each subscriber, as `why` shows it."""

from datetime import datetime
from typing import Any, NamedTuple

from ...core.units import Scope
from ..database import Fetch
from .journal import UNFINISHED
from .times import with_timezone

# The scope's unfinished decision: the event in flight, and how many results a retry takes from the journal.
FIND_UNFINISHED = f"""
SELECT p.begun_at, $3::bigint = ANY (p.seqs) AS mine, (SELECT e.id FROM events e WHERE e.seq = p.seq) AS event,
       (SELECT count(*) FROM journal j WHERE j.action_id = p.action_id) AS units
  {UNFINISHED}
 WHERE p.subscriber = $1 AND p.scope = $2
"""  # noqa: S608 - interpolates constant SQL only


class Fate(NamedTuple):
    """The state of an event for one subscriber, with the reason."""

    subscriber: str
    state: str
    """`acted`, `dropped`, `filtered`, `erased`, `dead`, `held`, `in flight` or `waiting`."""
    reason: str
    attempts: int
    since: datetime | None = None
    until: datetime | None = None
    error: str | None = None
    traceback: str | None = None
    led_to: str | None = None
    """The id of the action, or of the `agent.dropped`, that settled it."""
    behind: str | None = None
    """The id of the earlier event of the scope that comes first."""


class Why(NamedTuple):
    """One event, with its state for each subscriber."""

    id: str
    type: str
    source: str
    scope: str
    seq: int
    timestamp: datetime
    recorded_at: datetime
    meta: Any
    fates: list[Fate]


async def with_unfinished(fetch: Fetch, scope: Scope, seq: int, fate: Fate) -> Fate:
    """Return the state of an unsettled event, with the unfinished decision of its scope, if there is one."""
    rows = await fetch(FIND_UNFINISHED, fate.subscriber, scope, seq)
    if not rows:
        return fate
    row = rows[0]
    begun_at = with_timezone(row["begun_at"]).isoformat(timespec="seconds")
    if not row["mine"]:
        reason = f"A decision of its scope, begun at {begun_at}, comes first: it is on {row['event']} and unfinished."
        return fate._replace(reason=reason, behind=row["event"])
    units = f"{row['units']} recorded {'result' if row['units'] == 1 else 'results'}"
    reason = (
        f"{fate.reason} Its decision, begun at {begun_at}, is unfinished: a retry replays {units}."
    )
    return fate._replace(reason=reason)
