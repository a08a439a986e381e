"""Holds deliveries by group commit."""

from typing import NamedTuple

from ....core.units import Scope
from ..claim import IS_LEASED, MATCHES_TOKENS, Token
from ..group_commit import GroupCommit
from ..settle import CommitCallback, Settler
from .state import ERASURE_STEP

# Holds deliveries, which can then no longer be claimed, and stores the notes of their scopes, unless the scope was
# erased after the decision read it.
HOLD = f"""
WITH held AS (
    UPDATE deliveries d
       SET held_at = now(), lease = NULL, error = NULL, traceback = NULL
     WHERE {MATCHES_TOKENS} AND {IS_LEASED}
    RETURNING d.seq, d.fence
), noted AS (
    INSERT INTO scopes (subscriber, scope, scratch, version)
    SELECT $1, n.scope, n.scratch::jsonb, n.version
      FROM unnest($4::text[], $5::text[], $6::bigint[], $7::bigint[]) AS n (scope, scratch, seq, version)
     WHERE n.seq = ANY (ARRAY (SELECT seq FROM held))
     ORDER BY n.scope
        ON CONFLICT (subscriber, scope) DO UPDATE SET scratch = excluded.scratch
     WHERE scopes.version < excluded.version + {ERASURE_STEP}
)
SELECT seq, fence FROM held
"""  # noqa: S608 - interpolates constant SQL only


class HoldRequest(NamedTuple):
    """The deliveries that a decision holds, and the notes of their scope if those changed."""

    scope: Scope
    tokens: tuple[Token, ...]
    scratch: str | None
    version: int = 0
    """The version of the scope that the decision read; a drop may have increased it by one meanwhile."""


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
        notes = {item.scope: item for item in batch if item.scratch is not None and item.tokens}
        settled, _ = await self._settler.commit(
            [item.tokens for item in batch],
            HOLD,
            list(notes),
            [item.scratch for item in notes.values()],
            [item.tokens[0].seq for item in notes.values()],
            [item.version for item in notes.values()],
        )
        return settled
