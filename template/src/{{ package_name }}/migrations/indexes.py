"""Builds the indexes of the store's tables that are newer than the tables.

A table may have millions of rows, so its indexes are built concurrently with readers and writers, outside of the
migrations' transaction. The service works without them, but slower. A build that was killed leaves an invalid index, which
the next build drops and repeats.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

import asyncpg
from sqlalchemy import Connection, text

from ..config import Settings
from ..core.units import Seconds
from ..infra.database import CONNECT_TIMEOUT, StartupError, reason
from ..infra.store.schema import UNCLAIMED

type Report = Callable[[str], None]
"""Gets sentences about the progress of a build."""

LOCK = 5_219_203_774_018_266_114  # next to that of the migrations
POLL: Seconds = 0.5  # between checks of a build
QUIET: Seconds = 5.0  # before the first report of a build
REPORT: Seconds = 30.0  # between later reports
WATCH_TIMEOUT: Seconds = 30.0  # of a check; then the server counts as unavailable

FAILURES = (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.PostgresError)
"""The errors of a build: the driver's own, since these connections do not translate them."""


class IndexNotBuilt(StartupError):
    """An index could not be built. The schema is up to date, and the service works without the index."""


class StoreIndex(NamedTuple):
    """An index of a table that may be large."""

    name: str
    table: str
    on: str
    """The part of CREATE INDEX after the name of the table."""
    replaces: str | None = None
    """The index of older code, which is dropped once this one is built."""


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
    StoreIndex("scopes_waiting", "scopes", "(subscriber, wake_at) WHERE wake_at IS NOT NULL"),
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
# A build has no time limit, but the server ends an idle session, so that a frozen process does not keep the lock.
# The settings are set by a query: not all servers have all of them, and a pooler refuses them at the start.
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
    """Return the indexes that are missing or not valid."""
    return [index for index in INDEXES if connection.scalar(text(USABLE), index._asdict()) is None]


async def build(
    settings: Settings,
    wanted: Sequence[StoreIndex],
    on_progress: Report,
    index_timeout: Seconds | None = None,
) -> None:
    """Build indexes one by one, concurrently with readers and writers; `on_progress` gets their progress.

    Several processes may call this at once. `index_timeout` is the longest time for one index, in seconds.

    Raises:
        IndexNotBuilt: one cannot be built, or not within the time limit.
    """
    for index in wanted:
        try:
            async with (
                asyncio.timeout(index_timeout),
                _connection(settings) as builder,
                _connection(settings) as watcher,
            ):
                await _acquire_lock(builder, watcher, on_progress)
                await _build(index, builder, watcher, on_progress)
        except FAILURES as error:
            raise IndexNotBuilt(
                f"The index {index.name} was not built ({_why(error)}): the schema is up to date and the"
                f" service works without it, only slower; {_remedy(error, index)}."
            ) from error


def _why(error: BaseException) -> str:
    return "it takes too long" if isinstance(error, TimeoutError) else reason(error)


def _remedy(error: BaseException, index: StoreIndex) -> str:
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        return (
            f"run the `migrate` command as the user that owns the table {index.table}, named in"
            " DATABASE_MIGRATE_URL"
        )
    return "run the `migrate` command again"


@asynccontextmanager
async def _connection(settings: Settings) -> AsyncGenerator[asyncpg.Connection]:
    """Open a connection past any pooler, since the lock and the settings belong to the session."""
    connection = await asyncpg.connect(
        settings.listen_dsn,
        timeout=CONNECT_TIMEOUT,
        server_settings={"application_name": "migrate"},
    )
    try:
        await connection.execute(WITHOUT_LIMITS, timeout=WATCH_TIMEOUT)
        yield connection
    finally:
        with suppress(*FAILURES):  # the server ends it in any case
            await connection.close(timeout=CONNECT_TIMEOUT)


async def _acquire_lock(
    builder: asyncpg.Connection, watcher: asyncpg.Connection, on_progress: Report
) -> None:
    """Acquire the lock of builds; report the process that has it.

    It polls, because a statement that waits keeps a snapshot, and a concurrent build waits for all snapshots.
    """
    progress = _ProgressReports(on_progress)
    while not await builder.fetchval(TRY_LOCK, LOCK, timeout=WATCH_TIMEOUT):
        for row in await watcher.fetch(HOLDER, LOCK, timeout=WATCH_TIMEOUT):
            await progress.on(watcher, row["pid"], f"Process {row['pid']} builds an index")
        await asyncio.sleep(POLL)


async def _build(
    index: StoreIndex, builder: asyncpg.Connection, watcher: asyncpg.Connection, on_progress: Report
) -> None:
    if not await watcher.fetchval(
        f"SELECT EXISTS (SELECT FROM {index.table})", timeout=WATCH_TIMEOUT
    ):
        on_progress = _ignore  # the build takes no time in a new database
    if not await _is_usable(index, builder, watcher, on_progress):
        await _create(index, builder, watcher, on_progress)
    if index.replaces is not None:
        drop = f"DROP INDEX CONCURRENTLY IF EXISTS {index.replaces}"
        await _watched(drop, index, builder, watcher, on_progress)


async def _create(
    index: StoreIndex, builder: asyncpg.Connection, watcher: asyncpg.Connection, on_progress: Report
) -> None:
    started_at = time.monotonic()
    on_progress(
        f"Building the index {index.name} of {index.table}; reading and writing go on meanwhile"
    )
    await _watched(
        f"DROP INDEX CONCURRENTLY IF EXISTS {index.name}", index, builder, watcher, on_progress
    )
    await _watched(
        f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {index.name} ON {index.table} {index.on}",
        index,
        builder,
        watcher,
        on_progress,
    )
    on_progress(f"Built the index {index.name} in {time.monotonic() - started_at:.1f} s")


def _ignore(_: str) -> None:
    """Ignore a report."""


async def _is_usable(
    index: StoreIndex, builder: asyncpg.Connection, watcher: asyncpg.Connection, on_progress: Report
) -> bool:
    """Wait for a build that was started by hand; return whether the index is valid."""
    progress = _ProgressReports(on_progress)
    while row := await builder.fetchrow(FOUND, index.table, index.name, timeout=WATCH_TIMEOUT):
        if row["valid"] or row["builder"] is None:
            return bool(row["valid"])
        await progress.on(watcher, row["builder"], f"Process {row['builder']} builds {index.name}")
        await asyncio.sleep(POLL)
    return False


async def _watched(
    sql: str,
    index: StoreIndex,
    builder: asyncpg.Connection,
    watcher: asyncpg.Connection,
    on_progress: Report,
) -> None:
    """Run a statement without a time limit, and report its progress or the sessions that it waits for.

    Raises:
        TimeoutError: the server does not answer the watcher.
    """
    progress = _ProgressReports(on_progress)
    pid = builder.get_server_pid()
    work = asyncio.ensure_future(builder.execute(sql))
    try:
        while not (await asyncio.wait([work], timeout=POLL))[0]:
            await progress.on(watcher, pid, index.name)
        await work
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


class _ProgressReports:
    """Reports about a build: the first after `QUIET` seconds, then every `REPORT` seconds."""

    def __init__(self, on_progress: Report) -> None:
        self._on_progress = on_progress
        self._next = time.monotonic() + QUIET

    async def on(self, watcher: asyncpg.Connection, pid: int, what: str) -> None:
        """Report the progress of a server process, or the sessions that it waits for, if a report is due.

        Raises:
            TimeoutError: the server does not answer.
        """
        row = await watcher.fetchrow(STATE, pid, timeout=WATCH_TIMEOUT)
        if row is None or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + REPORT
        if row["blockers"]:
            self._on_progress(f"{what}: waits for {row['blockers']}")
        else:
            percent = "" if row["percent"] is None else f", {row['percent']:.0f} %"
            self._on_progress(f"{what}: {row['phase'] or 'at work'}{percent}")
