"""Settling deliveries: handled, failed, or held. Each statement names the fence that it acts under."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from ...core.types import Scope, Seconds
from ..database import Fetch
from ..text import storable, without_passwords
from . import counters
from .claim import LEASED, OURS, Token, columns, seqs
from .lanes import Lane, SharedFlush

# The fence must match: a worker whose lease ran out changes nothing, whatever it says.
ACK = f"""
DELETE FROM deliveries d
 WHERE {OURS}
RETURNING d.seq, d.fence
"""  # noqa: S608 - no value goes in, only conditions

# Doubling from the base delay up to the longest, less up to a half, so that retries spread out.
NACK = """
UPDATE deliveries d
   SET lease = NULL, error = $4, traceback = $5,
       due_at = now() + least($6::float8 * power(2, least(attempts, 30) - 1), $7::float8)
                        * (0.5 + random() / 2) * interval '1 second',
       dead_at = CASE WHEN attempts >= $8::bigint THEN now() END
 WHERE d.subscriber = $1 AND d.seq = $2 AND d.fence = $3
RETURNING d.dead_at IS NOT NULL AS dead, d.attempts
"""

# What a working memory wants to keep leaves the claimable set; its notes are saved in the same breath.
HOLD = f"""
WITH held AS (
    UPDATE deliveries d
       SET held_at = now(), lease = NULL, error = NULL, traceback = NULL
     WHERE {OURS} AND {LEASED}
    RETURNING d.seq, d.fence
), noted AS (
    INSERT INTO scopes (subscriber, scope, scratch)
    SELECT $1, n.scope, n.scratch::jsonb
      FROM unnest($4::text[], $5::text[], $6::bigint[]) AS n (scope, scratch, seq)
     WHERE n.seq = ANY (ARRAY (SELECT seq FROM held))
     ORDER BY n.scope
        ON CONFLICT (subscriber, scope) DO UPDATE SET scratch = excluded.scratch
)
SELECT seq, fence FROM held
"""  # noqa: S608 - no value goes in, only conditions


@dataclass(frozen=True)
class Backoff:
    """How long a failed delivery waits, and how often it is tried."""

    base: Seconds
    longest: Seconds
    attempts: int


class Hold(NamedTuple):
    """What one decision keeps: events, and the notes of their scope if those changed."""

    scope: Scope
    tokens: tuple[Token, ...]
    scratch: str | None


type Done = Callable[[bool | Exception], None]
"""Is told how a commit went: False if a delivery came too late, or what kept it from being made."""


class Settler:
    """Settles one subscriber's deliveries; what comes in together shares a commit.

    After each commit `settled` is told all its tokens, and those among them that came too late:
    another worker has their events.
    """

    def __init__(
        self, lane: Lane, subscriber: str, settled: Callable[[list[Token], list[Token]], None]
    ) -> None:
        self._lane = lane
        self._subscriber = subscriber
        self._settled = settled
        self._acks = SharedFlush[tuple[Token, ...], bool](self._flush_acks)
        self._holds = SharedFlush[Hold, bool](self._flush_holds)

    def ack(self, tokens: tuple[Token, ...]) -> asyncio.Future[bool]:
        """Delete what was handled; the result, after the commit, is False if any came too late."""
        return self._acks.submit(tokens)

    def ack_later(self, tokens: tuple[Token, ...], done: Done) -> None:
        """Do the same for a caller who does not wait: `done` is called after the commit."""
        self._acks.add(tokens, done)

    def hold(self, kept: Hold, done: Done) -> None:
        """Keep what a context gathers; `done` is called after the commit."""
        self._holds.add(kept, done)

    async def close(self) -> None:
        """Wait until everything is committed."""
        await self._acks.close()
        await self._holds.close()

    async def _flush_acks(self, batch: list[tuple[Token, ...]]) -> list[bool | Exception]:
        settled, ours = await self._flush(batch, ACK)
        counters.handled.add(ours)
        return settled

    async def _flush_holds(self, batch: list[Hold]) -> list[bool | Exception]:
        notes = {item.scope: item for item in batch if item.scratch is not None and item.tokens}
        settled, _ = await self._flush(
            [item.tokens for item in batch],
            HOLD,
            list(notes),
            [item.scratch for item in notes.values()],
            [item.tokens[0].seq for item in notes.values()],
        )
        return settled

    async def _flush(
        self, batch: list[tuple[Token, ...]], statement: str, *args: object
    ) -> tuple[list[bool | Exception], int]:
        """Return whether all of each item was ours, and how many deliveries were."""
        tokens = [token for item in batch for token in item]
        rows = await self._lane.fetch(statement, self._subscriber, *columns(tokens), *args)
        late: list[Token] = []
        if len(rows) < len(tokens):
            ours = {(row["seq"], row["fence"]) for row in rows}
            late = [token for token in tokens if token[:2] not in ours]
        self._settled(tokens, late)
        return [not late or all(token not in late for token in item) for item in batch], len(rows)


async def ack(fetch: Fetch, subscriber: str, tokens: Iterable[Token]) -> set[int]:
    """Delete what is done, in a transaction of the caller's; return the `seq` of what was ours."""
    return seqs(await fetch(ACK, subscriber, *columns(tokens)))


async def nack(
    fetch: Fetch, subscriber: str, token: Token, error: str, traceback: str | None, backoff: Backoff
) -> bool | None:
    """Send a failed delivery to its retry; True if it died instead, None if it was not ours."""
    rows = await fetch(
        NACK,
        subscriber,
        token.seq,
        token.fence,
        without_passwords(storable(error)),
        traceback and without_passwords(storable(traceback)),
        backoff.base,
        backoff.longest,
        backoff.attempts,
    )
    return rows[0]["dead"] if rows else None
