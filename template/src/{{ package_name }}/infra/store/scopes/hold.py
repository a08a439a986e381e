"""Holds deliveries by group commit."""

from typing import NamedTuple

from ....core.units import Scope, Seconds
from ..claim import IS_LEASED, MATCHES_TOKENS, Token
from ..group_commit import GroupCommit
from ..settle import CommitCallback, Settler
from .state import ERASURE_STEP

# Holds deliveries, which can then no longer be claimed, and stores the notes of their scopes and when those are
# evaluated again ($7: in how many seconds; null for no such time), unless the scope was erased after the decision
# read it.
HOLD_PARTS = f"""
WITH held AS (
    UPDATE deliveries d
       SET held_at = now(), lease = NULL, error = NULL, traceback = NULL
     WHERE {MATCHES_TOKENS} AND {IS_LEASED}
    RETURNING d.seq, d.fence
), noted AS (
    INSERT INTO scopes (subscriber, scope, scratch, wake_at, version)
    SELECT $1, n.scope, n.scratch::jsonb, now() + n.wait * interval '1 second', n.version
      FROM unnest($4::text[], $5::text[], $6::bigint[], $7::float8[], $8::bigint[])
           AS n (scope, scratch, seq, wait, version)
     WHERE n.seq = ANY (ARRAY (SELECT seq FROM held))
     ORDER BY n.scope
        ON CONFLICT (subscriber, scope) DO UPDATE
       SET scratch = excluded.scratch, wake_at = excluded.wake_at
     WHERE scopes.version < excluded.version + {ERASURE_STEP}
)
"""  # noqa: S608 - interpolates constant SQL only
HELD = "SELECT seq, fence FROM held"
HOLD = f"{HOLD_PARTS}{HELD}"

# Ends the decisions ($9) of which units are recorded. The next one of the scope has the same action id, so their entries
# go, too.
HOLD_AND_END = f"""{HOLD_PARTS}, ended AS (
    DELETE FROM decisions p
     WHERE p.subscriber = $1 AND p.action_id = ANY ($9::text[]) AND p.seq = ANY (ARRAY (SELECT seq FROM held))
    RETURNING p.action_id
), forgotten AS (
    DELETE FROM journal WHERE action_id IN (SELECT action_id FROM ended)
)
{HELD}"""  # noqa: S608 - interpolates constant SQL only


class ScopeNotes(NamedTuple):
    """What a scope keeps besides its held events."""

    scratch: str
    """The notes of its triggers, as JSON."""
    wait: Seconds | None
    """In how many seconds its trigger is evaluated again; None if only an event leads to that."""
    version: int
    """The version of the scope that the decision read; a drop may have increased it by one meanwhile."""


class HoldRequest(NamedTuple):
    """The deliveries that a decision holds, and the notes of their scope if those changed."""

    scope: Scope
    tokens: tuple[Token, ...]
    notes: ScopeNotes | None
    ends: str | None = None
    """The action id of the decision that ends, if units of it are recorded."""


class Holds:
    """Holds deliveries of one subscriber; concurrent holds share commits."""

    def __init__(self, settler: Settler) -> None:
        self._settler = settler
        self._group = GroupCommit[HoldRequest, bool](self._flush)

    def add(self, request: HoldRequest, done: CommitCallback) -> None:
        """Hold deliveries, and call `done` after the commit."""
        self._group.add(request, done)

    async def close(self) -> None:
        """Wait until all holds are committed."""
        await self._group.close()

    async def _flush(self, batch: list[HoldRequest]) -> list[bool | Exception]:
        notes = {
            item.scope: (item.notes, item.tokens[0].seq)
            for item in batch
            if item.notes is not None and item.tokens
        }
        ends = [item.ends for item in batch if item.ends is not None]
        settled, _ = await self._settler.commit(
            [item.tokens for item in batch],
            HOLD_AND_END if ends else HOLD,
            list(notes),
            [changed.scratch for changed, _ in notes.values()],
            [seq for _, seq in notes.values()],
            [changed.wait for changed, _ in notes.values()],
            [changed.version for changed, _ in notes.values()],
            *([ends] if ends else []),
        )
        return settled
