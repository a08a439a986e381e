"""Settles handled deliveries. The statement requires the fence of the token."""

import asyncio
from collections.abc import Callable, Iterable

from ..database import Fetch
from ..telemetry import counters
from .claim import MATCHES_TOKENS, Token, columns, seqs
from .dedicated import DedicatedConnection
from .group_commit import GroupCommit

# Requires the fence, so a worker whose delivery was claimed again changes nothing.
ACK = f"""
DELETE FROM deliveries d
 WHERE {MATCHES_TOKENS}
RETURNING d.seq, d.fence
"""  # noqa: S608 - interpolates constant SQL only

type CommitCallback = Callable[[bool | Exception], None]
"""The callback for a background commit. It gets False if a token was stale, or the error of the commit."""


class Settler:
    """Settles one subscriber's deliveries by group commit.

    After each commit it calls `on_commit` with all its tokens and with the stale ones among them.
    """

    def __init__(
        self,
        connection: DedicatedConnection,
        subscriber: str,
        on_commit: Callable[[list[Token], list[Token]], None],
    ) -> None:
        self._connection = connection
        self._subscriber = subscriber
        self._on_commit = on_commit
        self._acks = GroupCommit[tuple[Token, ...], bool](self._flush_acks)

    def ack(self, tokens: tuple[Token, ...]) -> asyncio.Future[bool]:
        """Ack deliveries; the result, set after the commit, is False if any token was stale."""
        return self._acks.submit(tokens)

    def ack_in_background(self, tokens: tuple[Token, ...], done: CommitCallback) -> None:
        """Ack deliveries for a caller that does not wait; call `done` after the commit."""
        self._acks.add(tokens, done)

    async def close(self) -> None:
        """Wait until all acks are committed."""
        await self._acks.close()

    async def _flush_acks(self, batch: list[tuple[Token, ...]]) -> list[bool | Exception]:
        settled, count = await self.commit(batch, ACK)
        counters.handled.add(count)
        return settled

    async def commit(
        self, batch: list[tuple[Token, ...]], statement: str, *args: object
    ) -> tuple[list[bool | Exception], int]:
        """Run a statement on all tokens of a batch.

        Returns for each item whether all its tokens were valid, and the number of valid tokens.
        """
        tokens = [token for item in batch for token in item]
        rows = await self._connection.fetch(statement, self._subscriber, *columns(tokens), *args)
        stale: list[Token] = []
        if len(rows) < len(tokens):
            valid = {(row["seq"], row["fence"]) for row in rows}
            stale = [token for token in tokens if token[:2] not in valid]
        self._on_commit(tokens, stale)
        return [not stale or all(token not in stale for token in item) for item in batch], len(rows)


async def ack(fetch: Fetch, subscriber: str, tokens: Iterable[Token]) -> set[int]:
    """Ack deliveries in the caller's transaction; return the `seq` of each whose token was valid."""
    return seqs(await fetch(ACK, subscriber, *columns(tokens)))
