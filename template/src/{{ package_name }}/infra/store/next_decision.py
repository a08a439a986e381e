"""States what the next decision of a scope is on, and what it waits for, as the queue records it."""

from ...core.units import Scope
from ..database import Fetch
from .times import calendar_time, with_timezone

MAX_ERROR_LENGTH = 300  # characters of a quoted error

# The first delivery of the scope that was claimed and is not settled: the next decision is on it.
NEXT = f"""
SELECT e.id, d.lease IS NOT NULL AS leased, d.error, d.attempts, d.due_at > now() AS later,
       {calendar_time("d.due_at")} AS due_at
  FROM deliveries d JOIN events e ON e.seq = d.seq
 WHERE d.subscriber = $1 AND d.scope = $2 AND d.fence <> 0 AND d.held_at IS NULL AND d.dead_at IS NULL
 ORDER BY d.seq
 LIMIT 1
"""  # noqa: S608 - interpolates constant SQL only


async def next_decision(fetch: Fetch, subscriber: str, scope: Scope) -> str | None:
    """Return a sentence on the next decision of a scope; None if no event of it waits for one."""
    rows = await fetch(NEXT, subscriber, scope)
    if not rows:
        return None
    row = rows[0]
    if row["leased"] and row["later"]:
        return f"A decision is under way, on event {row['id']}."
    if row["leased"]:
        return (
            f"The decision on event {row['id']} ended without a result: another worker claims it."
        )
    when = "now"
    if row["later"]:
        when = f"at {with_timezone(row['due_at']).isoformat(timespec='seconds')}"
    if row["error"] is not None:
        times = "once" if row["attempts"] == 1 else f"{row['attempts']} times"
        error = " ".join(row["error"][:MAX_ERROR_LENGTH].split())
        return f"The decision on event {row['id']} failed {times}, and is due again {when}: {error}"
    if row["later"]:
        return (
            f"The decision on event {row['id']} is deferred, and due again {when}: its scope was busy, or what"
            " it needs, such as the model, was unavailable."
        )
    return f"The next decision is on event {row['id']}, which is due now."
