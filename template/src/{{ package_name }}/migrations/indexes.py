"""Indexes of the store's tables that came after their first release.

A table may have millions of rows by then, so they are built beside its readers and writers, outside
the migrations' transaction. The service works without them, only slower. A build that was killed
leaves an invalid index, which the next one drops and builds again.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

import asyncpg
from sqlalchemy import Connection, text

from ..config import Settings
from ..core.types import Seconds
from ..infra.database import CONNECT_TIMEOUT, StartupError, reason
from ..infra.store.schema import UNCLAIMED

type Say = Callable[[str], None]
"""Reports in a sentence how far a build has come."""

LOCK = 5_219_203_774_018_266_114  # beside the migrations' own
POLL: Seconds = 0.5  # between looks at a build
QUIET: Seconds = 5.0  # a build that takes longer reports what it waits for
REPORT: Seconds = 30.0  # from then on as often
WATCH_TIMEOUT: Seconds = 30.0  # a look that takes longer means that the server is gone

FAILURES = (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.PostgresError)
"""What ends a build: the driver's own errors, since these connections have no time limits."""


class IndexNotBuilt(StartupError):
    """An index could not be built; the schema is up to date, and the service works without it."""


class StoreIndex(NamedTuple):
    """An index of a table that may be large already."""

    name: str
    table: str
    on: str
    """What comes behind the table's name in CREATE INDEX."""
    replaces: str | None = None
    """An index that only older code uses, dropped once this one is built."""


INDEXES = (
    StoreIndex("events_of_dropped", "events", "(scope, recorded_at) WHERE type = 'agent.dropped'"),
    StoreIndex(
        "deliveries_pending",
        "deliveries",
        f"(subscriber, seq) WHERE {UNCLAIMED} AND due_at = 'epoch'::timestamptz",
    ),
    StoreIndex(
        "deliveries_waiting",
        "deliveries",
        f"(subscriber, due_at, seq) WHERE {UNCLAIMED} AND due_at > 'epoch'::timestamptz",
        replaces="deliveries_ready",
    ),
    StoreIndex(
        "deliveries_claimed",
        "deliveries",
        "(subscriber, scope, seq) WHERE fence <> 0 AND held_at IS NULL AND dead_at IS NULL",
    ),
)

USABLE = """
SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
 WHERE i.indrelid = to_regclass(:table) AND c.relname = :name AND i.indisvalid
   AND to_regclass(:replaces) IS NULL
"""
FOUND = """
SELECT i.indisvalid AS valid, p.pid AS builder
  FROM pg_index i
  JOIN pg_class c ON c.oid = i.indexrelid
  LEFT JOIN pg_stat_progress_create_index p
    ON p.datname = current_database() AND p.index_relid = i.indexrelid
 WHERE i.indrelid = to_regclass($1) AND c.relname = $2
"""
# A build takes as long as it takes; but a process that is frozen must not keep the lock for ever.
# Not all servers have all of these, and a pooler would refuse them with the connection's start.
WITHOUT_LIMITS = """
SELECT set_config(name, CASE name WHEN 'idle_session_timeout' THEN '60s' ELSE '0' END, false)
  FROM pg_settings
 WHERE name IN ('statement_timeout', 'lock_timeout', 'transaction_timeout', 'idle_session_timeout')
"""
TRY_LOCK = "SELECT pg_try_advisory_lock($1)"
HOLDER = """
SELECT pid FROM pg_locks
 WHERE locktype = 'advisory' AND granted AND objsubid = 1
   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND (classid::bigint << 32 | objid::bigint) = $1
"""
STATE = """
SELECT p.phase,
       CASE WHEN p.blocks_total > 0 THEN 100 * p.blocks_done / p.blocks_total END AS percent,
       (SELECT string_agg(format('process %s (%s, %s, since %s)', a.pid,
                                 coalesce(nullif(a.application_name, ''), a.usename, 'unknown'),
                                 coalesce(a.state, 'state unknown'),
                                 coalesce(date_trunc('second', clock_timestamp() - a.xact_start)::text,
                                          'unknown')), ', ')
          FROM pg_stat_activity a WHERE a.pid = ANY (pg_blocking_pids($1))) AS blockers
  FROM pg_stat_activity b LEFT JOIN pg_stat_progress_create_index p ON p.pid = b.pid
 WHERE b.pid = $1
"""


def missing_in(connection: Connection) -> list[StoreIndex]:
    """Return the indexes that are not there, or not usable."""
    return [index for index in INDEXES if connection.scalar(text(USABLE), index._asdict()) is None]


async def build(
    settings: Settings, wanted: Sequence[StoreIndex], say: Say, patience: Seconds | None = None
) -> None:
    """Build indexes one by one, beside readers and writers; several processes may call this at once.

    Without `patience` it takes as long as it takes, which `say` reports.

    Raises:
        IndexNotBuilt: one cannot be built, or not within the patience.
    """
    for index in wanted:
        try:
            async with (
                asyncio.timeout(patience),
                _connection(settings) as builder,
                _connection(settings) as watcher,
            ):
                await _have_the_lock(builder, watcher, say)
                await _build(index, builder, watcher, say)
        except FAILURES as error:
            raise IndexNotBuilt(
                f"The index {index.name} was not built ({_why(error)}): the schema is up to date and the"
                f" service works without it, only slower; {_remedy(error, index)}."
            ) from error


def _why(error: BaseException) -> str:
    return "it takes too long" if isinstance(error, TimeoutError) else reason(error)


def _remedy(error: BaseException, index: StoreIndex) -> str:
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        return f"run the `migrate` command as the user that owns the table {index.table}"
    return "run the `migrate` command again"


@asynccontextmanager
async def _connection(settings: Settings) -> AsyncGenerator[asyncpg.Connection]:
    """Open a connection that no pooler may share: a lock and a long statement are the session's."""
    connection = await asyncpg.connect(
        settings.listen_dsn,
        timeout=CONNECT_TIMEOUT,
        server_settings={"application_name": "migrate"},
    )
    try:
        await connection.execute(WITHOUT_LIMITS, timeout=WATCH_TIMEOUT)
        yield connection
    finally:
        with suppress(*FAILURES):  # it ends either way
            await connection.close(timeout=CONNECT_TIMEOUT)


async def _have_the_lock(
    builder: asyncpg.Connection, watcher: asyncpg.Connection, say: Say
) -> None:
    """Wait until no other process builds; one that died has no lock any more.

    By asking again and again: a statement that waits has a snapshot, for which a build would wait.
    """
    report = _Reports(say)
    while not await builder.fetchval(TRY_LOCK, LOCK, timeout=WATCH_TIMEOUT):
        for row in await watcher.fetch(HOLDER, LOCK, timeout=WATCH_TIMEOUT):
            await report.on(watcher, row["pid"], f"Process {row['pid']} builds an index")
        await asyncio.sleep(POLL)


async def _build(
    index: StoreIndex, builder: asyncpg.Connection, watcher: asyncpg.Connection, say: Say
) -> None:
    if not await watcher.fetchval(
        f"SELECT EXISTS (SELECT FROM {index.table})", timeout=WATCH_TIMEOUT
    ):
        say = _nothing  # a fresh database has it in a blink
    if not await _is_usable(index, builder, watcher, say):
        await _create(index, builder, watcher, say)
    if index.replaces is not None:
        drop = f"DROP INDEX CONCURRENTLY IF EXISTS {index.replaces}"
        await _watched(drop, index, builder, watcher, say)


async def _create(
    index: StoreIndex, builder: asyncpg.Connection, watcher: asyncpg.Connection, say: Say
) -> None:
    begun = time.monotonic()
    say(f"Building the index {index.name} of {index.table}; reading and writing go on meanwhile")
    await _watched(f"DROP INDEX CONCURRENTLY IF EXISTS {index.name}", index, builder, watcher, say)
    await _watched(
        f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {index.name} ON {index.table} {index.on}",
        index,
        builder,
        watcher,
        say,
    )
    say(f"Built the index {index.name} in {time.monotonic() - begun:.1f} s")


def _nothing(_: str) -> None:
    """Keep a sentence to itself."""


async def _is_usable(
    index: StoreIndex, builder: asyncpg.Connection, watcher: asyncpg.Connection, say: Say
) -> bool:
    """Wait for a build that somebody began by hand, and tell whether there is nothing left to do."""
    report = _Reports(say)
    while row := await builder.fetchrow(FOUND, index.table, index.name, timeout=WATCH_TIMEOUT):
        if row["valid"] or row["builder"] is None:
            return bool(row["valid"])
        await report.on(watcher, row["builder"], f"Process {row['builder']} builds {index.name}")
        await asyncio.sleep(POLL)
    return False


async def _watched(
    sql: str, index: StoreIndex, builder: asyncpg.Connection, watcher: asyncpg.Connection, say: Say
) -> None:
    """Run a long statement, and report on the way what it does or waits for.

    It has no time limit of its own; a server that does not answer the watcher any more ends it.
    """
    report = _Reports(say)
    pid = builder.get_server_pid()
    work = asyncio.ensure_future(builder.execute(sql))
    try:
        while not (await asyncio.wait([work], timeout=POLL))[0]:
            await report.on(watcher, pid, index.name)
        await work
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


class _Reports:
    """Sentences about a build: none at first, then one now and again."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._next = time.monotonic() + QUIET

    async def on(self, watcher: asyncpg.Connection, pid: int, what: str) -> None:
        """Report what a process of the server does or waits for, if it is time to.

        Raises:
            TimeoutError: the server does not answer.
        """
        row = await watcher.fetchrow(STATE, pid, timeout=WATCH_TIMEOUT)
        if row is None or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + REPORT
        if row["blockers"]:
            self._say(f"{what}: waits for {row['blockers']}")
        else:
            percent = "" if row["percent"] is None else f", {row['percent']:.0f} %"
            self._say(f"{what}: {row['phase'] or 'at work'}{percent}")
