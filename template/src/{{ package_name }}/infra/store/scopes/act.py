"""Commits an action in one statement, which is atomic without a transaction around it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import logfire

from ....core.events import ActionEvent, new_id
from ..claim import MATCHES_TOKENS, columns
from ..insert import ADD_DELIVERIES, current_trace, prepare
from .state import NO_NOTES, ScopeMoved

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncSession

    from ...database import Fetch, Row
    from ..claim import Token
    from ..codec import Limits

type OnAction = Callable[[AsyncSession, ActionEvent], Awaitable[None]]
"""Runs the database effects of an action, in the transaction that settles its events."""

# The scope's row must exist, because every transaction locks the scope before its deliveries. With
# different orders two transactions would deadlock.
BEGIN_SCOPE = """
INSERT INTO scopes (subscriber, scope) VALUES ($1, $2) ON CONFLICT DO NOTHING
"""

# Ends a decision of which units are recorded; with $13, their entries go, too.
END_DECISION = """
, ended AS (
    DELETE FROM decisions
     WHERE subscriber = $1 AND scope = $4 AND (SELECT version FROM moved) IS NOT NULL
    RETURNING action_id
), forgotten AS (
    DELETE FROM journal WHERE $13::boolean AND action_id IN (SELECT action_id FROM ended)
)"""

# Writes all or nothing: `moved` requires the locks on the scope and on all of its deliveries, and every
# other part requires `moved`. A worker that lost the scope's lock meanwhile finds another version or a
# missing delivery, and changes nothing.
ACT_PARTS = f"""
WITH scoped AS (
    SELECT version FROM scopes WHERE subscriber = $1 AND scope = $4 FOR UPDATE
), ours AS (
    SELECT d.seq
      FROM deliveries d
     WHERE {MATCHES_TOKENS}
       AND (SELECT version FROM scoped) = $5::bigint
       FOR UPDATE OF d
), known AS (
    SELECT FROM events WHERE id = $7::text
), moved AS (
    UPDATE scopes
       SET version = version + 1, scratch = $6::text::jsonb, last_action_at = now(), wake_at = NULL
     WHERE subscriber = $1 AND scope = $4 AND version = $5::bigint
       AND (SELECT count(*) FROM ours) = cardinality($2::bigint[])
       AND NOT EXISTS (SELECT FROM known)
    RETURNING version
), settled AS (
    DELETE FROM deliveries d
     WHERE {MATCHES_TOKENS}
       AND (SELECT version FROM moved) IS NOT NULL
), accepted AS (
    INSERT INTO events (id, type, source, scope, timestamp, payload, headers)
    SELECT $7::text, $8::text, $9::text, $4, $10::timestamptz, $11::text::jsonb, $12::text::jsonb
     WHERE (SELECT version FROM moved) IS NOT NULL
    RETURNING seq, type, scope
), {ADD_DELIVERIES}"""  # noqa: S608 - interpolates constant SQL only
RESULT = """
SELECT (SELECT version FROM scoped) AS version, ARRAY (SELECT seq FROM ours) AS ours,
       EXISTS (SELECT FROM known) AS known, (SELECT version FROM moved) AS moved
"""
ACT = f"{ACT_PARTS}{RESULT}"
ACT_AND_END = f"{ACT_PARTS}{END_DECISION}{RESULT}"


async def act(
    fetch: Fetch,
    subscriber: str,
    action: ActionEvent,
    version: int,
    tokens: Sequence[Token],
    limits: Limits,
    forget: bool | None = None,
) -> set[int]:
    """Advance the scope from `version`, settle the covered deliveries and publish the action.

    `forget` is whether to delete the entries of the decision's journal; None if it has none.

    Returns the `seq` of each delivery whose token was valid. If one is missing, nothing was written.
    The scope's version ensures that a decision acts once. If another event already has the action's
    id, the action gets a new one.

    Raises:
        ScopeMoved: the scope is no longer at that version; nothing was written.
        InvalidEvent: the action cannot be stored.
    """

    async def run() -> Row:
        row = prepare(action, limits, current_trace()).row
        known = (*columns(tokens), row.scope, version, NO_NOTES)
        new = (row.id, row.type, row.source, row.timestamp, row.payload, row.headers)
        if forget is None:
            return (await fetch(ACT, subscriber, *known, *new))[0]
        return (await fetch(ACT_AND_END, subscriber, *known, *new, forget))[0]

    if version == 0:
        await fetch(BEGIN_SCOPE, subscriber, action.scope)
    result = await run()
    moved, valid = result["version"] != version, set[int](result["ours"])
    if result["known"] and not moved and len(valid) == len(tokens):
        logfire.warn("An action gets another id: {id} exists already", id=action.id)
        action.id = new_id()
        result = await run()
    if moved or (len(valid) == len(tokens) and result["moved"] is None):
        raise ScopeMoved(f"scope {action.scope!r} was changed by another worker")
    return valid
