"""Reads events within a budget of bytes, since their number says nothing about their size.

The caller first lists the `seq` of each row, which is cheap. One statement then reads the rows in that
order and measures each before the next, so neither the server nor this process exceeds the budget by
more than one row.
"""

from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import NamedTuple

from ..database import Fetch, Row
from .codec import EVENT_COLUMNS, Stored, decode_any
from .weights import weigh_event

MEMORY_PER_BYTE = 4
"""The memory allowed for each byte of a budget: parsed JSON of many small values takes up to 40."""


def budgeted(source: str, columns: str, size: str) -> str:
    """Return a statement that reads rows of `source`, which ends in `seq =`, within a budget.

    It always returns the first row. A row that was deleted meanwhile has only NULL columns.
    """
    return f"""
WITH RECURSIVE measured (n, bytes) AS (
    SELECT 0, 0::bigint
     UNION ALL
    SELECT m.n + 1, m.bytes + coalesce((SELECT {size} FROM {source} ($1::bigint[])[m.n + 1]), 0)
      FROM measured m
     WHERE m.n < cardinality($1::bigint[]) AND m.bytes < $2::bigint
)
SELECT found.*
  FROM measured m
  LEFT JOIN LATERAL (SELECT {columns} FROM {source} ($1::bigint[])[m.n]) AS found ON true
 WHERE m.n > 0 AND (m.n = 1 OR m.bytes <= $2::bigint)
 ORDER BY m.n
"""  # noqa: S608 - interpolates constant SQL only


NAMES = "octet_length(e.id) + octet_length(e.type) + octet_length(e.source) + octet_length(e.scope)"
EVENT_SIZE = f"octet_length(e.payload::text) + octet_length(e.headers::text) + {NAMES}"

READ_EVENTS = budgeted("events e WHERE e.seq =", EVENT_COLUMNS, EVENT_SIZE)


class RowChunk(NamedTuple):
    """The rows of one read."""

    rows: list[Row]
    rows_read: int
    """How many of the requested rows were read or found deleted."""


async def read_within(
    fetch: Fetch,
    seqs: Sequence[int],
    max_bytes: int,
    sql: str = READ_EVENTS,
    *args: object,
    memory: int | None = None,
) -> RowChunk:
    """Read the rows of these `seqs`, in their order, up to `max_bytes` bytes, and at least one.

    Stops earlier if the rows would take more than `memory` bytes once parsed; the default is
    `MEMORY_PER_BYTE` times `max_bytes`.
    """
    rows: list[Row] = []
    left = max_bytes * MEMORY_PER_BYTE if memory is None else memory
    found = await fetch(sql, list(seqs), max_bytes, *args) if seqs else ()
    for index, row in enumerate(found):
        if row["seq"] is None:
            continue
        left -= weigh_event(row["payload"], row["headers"])
        if left < 0 and rows:
            return RowChunk(rows, index)
        rows.append(row)
    return RowChunk(rows, len(found))


async def stream_events(
    fetch: Fetch, keys: Sequence[Row], max_bytes: int
) -> AsyncGenerator[tuple[Row, Stored]]:
    """Yield each key row with its event, reading `max_bytes` bytes at a time."""
    by_seq = {row["seq"]: row for row in keys}
    left = list(by_seq)
    while left:
        chunk = await read_within(fetch, left, max_bytes)
        del left[: chunk.rows_read]
        rows = deque(chunk.rows)
        del chunk
        while rows:  # frees each row as it is yielded, since the reader may be slow
            yield _decoded(by_seq, rows.popleft())


def _decoded(by_seq: Mapping[int, Row], row: Row) -> tuple[Row, Stored]:
    return by_seq[row["seq"]], decode_any(row)
