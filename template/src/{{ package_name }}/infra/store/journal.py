"""The journal of decisions: the results of finished model requests and tool calls, and the pins of unfinished decisions.

The first record of a decision *pins* it: its row in `decisions` names its events and its clock. Until it ends, each
attempt sees exactly those, and other events of its scope wait. The results are rows of `journal`.
"""

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from ...core.units import Scope, Seconds
from ..database import Fetch
from ..telemetry import counters
from .claim import Token
from .connections import StoreConnections
from .group_commit import GroupCommit

type Entries = Mapping[str, deque[bytes]]
"""The recorded units of a decision by key, each key's in the order of recording."""

NOTHING: Entries = {}
"""The entries of a decision that begins."""

PRUNE_CHUNK = 1_000  # entries that one statement deletes

# Each record is valid if the event in flight still has the fence of this attempt, and its scope the version. A stale
# worker, or a task that outlives its decision, writes nothing. Deliveries are locked by `seq`, as everywhere.
#
# `pinned`: a pin of another action is a void one, which no decision came across yet.
# `IS TRUE` makes PostgreSQL hash `ours`: it expects a few rows, and joined would compare each record with each of them.
# `admitted`: the filter passed these events, so the next attempt does not ask it again.
RECORD = """
WITH asked AS (
    SELECT *
      FROM unnest($2::int[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::text[],
                  $8::text[], $9::int[], $10::bytea[], $11::timestamptz[], $12::text[], $15::bytea[])
           AS a (number, scope, version, seq, fence, action_id, key, nth, entry, begun_at, seqs, question)
), ours AS (
    SELECT d.seq, d.fence
      FROM deliveries d
     WHERE d.subscriber = $1 AND d.seq = ANY ($5::bigint[] || $13::bigint[])
     ORDER BY d.seq
       FOR UPDATE
), valid AS (
    SELECT a.*
      FROM asked a
     WHERE coalesce((SELECT s.version FROM scopes s WHERE s.subscriber = $1 AND s.scope = a.scope), 0) = a.version
       AND ((a.seq, a.fence) IN (SELECT o.seq, o.fence FROM ours o)) IS TRUE
), pinned AS (
    INSERT INTO decisions (subscriber, scope, action_id, begun_at, seq, seqs)
    SELECT DISTINCT ON (v.scope) $1, v.scope, v.action_id, v.begun_at, v.seq, v.seqs::bigint[]
      FROM valid v
     WHERE v.seqs IS NOT NULL
     ORDER BY v.scope
        ON CONFLICT (subscriber, scope) DO UPDATE
       SET action_id = excluded.action_id, begun_at = excluded.begun_at, seq = excluded.seq,
           seqs = excluded.seqs, waiting = NULL, expires_at = NULL
     WHERE decisions.action_id <> excluded.action_id
), admitted AS (
    UPDATE deliveries d
       SET admitted = true
     WHERE d.subscriber = $1 AND d.seq = ANY ($13::bigint[]) AND NOT d.admitted
       AND d.fence = ($14::bigint[])[width_bucket(d.seq, $13::bigint[])]
), written AS (
    INSERT INTO journal (action_id, key, nth, scope, entry, asked)
    SELECT v.action_id, v.key, v.nth, v.scope, v.entry, v.question FROM valid v
        ON CONFLICT (action_id, key, nth) DO NOTHING
)
SELECT number FROM valid
"""

ENTRIES = "SELECT key, entry FROM journal WHERE action_id = $1 ORDER BY key, nth"

# An unfinished decision keeps its entries, however long its retries take.
PRUNE = """
DELETE FROM journal
 WHERE ctid = ANY (ARRAY (
       SELECT j.ctid
         FROM journal j
        WHERE j.recorded_at <= now() - $1::float8 * interval '1 second'
          AND NOT EXISTS (SELECT FROM decisions p WHERE p.action_id = j.action_id)
        ORDER BY j.recorded_at
        LIMIT $2))
RETURNING 1 AS one
"""

UNFINISHED = """FROM decisions p
          JOIN deliveries d ON d.subscriber = p.subscriber AND d.seq = p.seq AND d.dead_at IS NULL"""
"""The pins `p` that are not void: a pin whose event is a dead letter is one only for a retry of it."""

SIZE = f"""
SELECT (SELECT count(*) {UNFINISHED} WHERE p.subscriber = $1) AS pinned,
       pg_total_relation_size('journal') AS bytes
"""


class NewPin(NamedTuple):
    """What the first record of a decision pins."""

    begun_at: datetime
    """What `ctx.now()` returned."""
    held: Sequence[int]
    """The `seq` of each event that the scope held."""
    tokens: Sequence[Token]
    """The tokens of the events in flight."""


class Record(NamedTuple):
    """One finished unit of a decision."""

    scope: Scope
    version: int
    """The version of the scope that the decision read."""
    token: Token
    """The token of the last event in flight."""
    action_id: str
    key: str
    nth: int
    """How many units with the same key were recorded before."""
    entry: bytes
    pin: NewPin | None
    """The decision's pin, until one is known to be stored."""
    asked: bytes | None = None
    """What was asked, for people: no retry reads it."""


class JournalSize(NamedTuple):
    """The unfinished decisions of one subscriber, and the size of the journal of all."""

    pinned: int
    """Each has a scope of its own."""
    bytes: int
    """With its indexes, and with rows that were deleted and not vacuumed yet."""


class Journal:
    """Records and reads the finished units of one subscriber's decisions; concurrent records share commits."""

    def __init__(self, connections: StoreConnections, subscriber: str) -> None:
        self._connections = connections
        self._subscriber = subscriber
        self._group = GroupCommit[Record, bool](self._flush)

    async def record(self, record: Record) -> bool:
        """Store a finished unit; return False if the decision is over or another worker has its events.

        Raises:
            DatabaseUnavailable: the database does not answer.
        """
        return await self._group.submit(record)

    async def entries(self, action_id: str) -> Entries:
        """Return the recorded units of a decision."""
        found: defaultdict[str, deque[bytes]] = defaultdict(deque)
        for row in await self._connections.by_index(ENTRIES, action_id):
            found[row["key"]].append(row["entry"])
        return found

    async def prune(self, older_than: Seconds) -> int:
        """Delete the entries of ended decisions that are older than `older_than` seconds; return their number."""
        count = 0
        while rows := await self._connections.by_index(PRUNE, older_than, PRUNE_CHUNK):
            count += len(rows)
        return count

    async def size(self) -> JournalSize:
        """Return the number of unfinished decisions, and the size of the journal in bytes."""
        [row] = await self._connections.readers.find(SIZE, self._subscriber)
        return JournalSize(row["pinned"], row["bytes"])

    async def close(self) -> None:
        """Wait until all records are committed."""
        await self._group.close()

    async def _flush(self, batch: list[Record]) -> list[bool | Exception]:
        stored = await _write(self._connections.settling.fetch, self._subscriber, batch)
        counters.recorded_units.add(len(stored))
        return [number in stored for number in range(len(batch))]


async def _write(fetch: Fetch, subscriber: str, batch: list[Record]) -> set[int]:
    """Write records in one statement; return the places in the batch of those that were valid."""
    in_flight = sorted({token[:2] for each in batch if each.pin for token in each.pin.tokens})
    rows = await fetch(
        RECORD,
        subscriber,
        list(range(len(batch))),
        [each.scope for each in batch],
        [each.version for each in batch],
        [each.token.seq for each in batch],
        [each.token.fence for each in batch],
        [each.action_id for each in batch],
        [each.key for each in batch],
        [each.nth for each in batch],
        [each.entry for each in batch],
        [each.pin and each.pin.begun_at for each in batch],
        [each.pin and _as_array(each.pin) for each in batch],
        [seq for seq, _ in in_flight],
        [fence for _, fence in in_flight],
        [each.asked for each in batch],
    )
    return {row["number"] for row in rows}


def _as_array(pin: NewPin) -> str:
    """Return the pinned events as PostgreSQL's text of an array: `unnest` takes no arrays of several lengths."""
    seqs = sorted({*pin.held, *(token.seq for token in pin.tokens)})
    return f"{{{','.join(map(str, seqs))}}}"
