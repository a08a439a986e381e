"""The store's statements go by index: with a million events of history, and with stale statistics.

Both are read from the plans that the server runs, and from how many pages it looked at: a time would
say more about the machine.
"""

import json
from collections.abc import AsyncGenerator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from my_agent.config import Settings
from my_agent.infra.database import connect
from my_agent.infra.store.backoff import NACK
from my_agent.infra.store.byte_budget import READ_EVENTS
from my_agent.infra.store.claim import CLAIM, END_OVERLONG_WAITS, RELEASE
from my_agent.infra.store.cursor import MAX_BIGINT
from my_agent.infra.store.follow import FOLLOW
from my_agent.infra.store.lease_renewal import RENEW
from my_agent.infra.store.log import DISABLE_SORT, FIND, REPLAY
from my_agent.infra.store.next_due import NEXT_DUE
from my_agent.infra.store.pages import PAGE, SCAN_LIMIT
from my_agent.infra.store.poison import EXPIRED_LEASES
from my_agent.infra.store.scopes.aged import AGED
from my_agent.infra.store.scopes.drop import DROP
from my_agent.infra.store.scopes.held_events import DEAD_LETTER, HELD
from my_agent.infra.store.scopes.hold import HOLD
from my_agent.infra.store.scopes.state import STATE
from my_agent.infra.store.settle import ACK
from my_agent.infra.store.stats import EXACT_COUNT_LIMIT, STATS, STATUS
from my_agent.migrations import migrate

from .conftest import a_database
from .stores import LONG_AGO

HISTORY = 1_000_000
OWED = 10
BURST = 50_000
PAGES = 600  # a statement looks at no more: a scan of the log would be ten thousand and more

# Written in bulk, as what was handled long ago; indexes are made afterwards, which is quicker.
WRITE = """
INSERT INTO events (id, type, source, scope, timestamp, payload, headers, recorded_at, tx)
SELECT 'event-' || n, 'http.request', 'test', 'scope:' || n % 100, now() - interval '1 s' * n,
       '{}', '{}', now() - interval '1 s' * n, '3'
  FROM generate_series(1, $1::int) AS n
"""
OWE = """
INSERT INTO deliveries (subscriber, seq, scope)
SELECT 'agent', seq, scope FROM events ORDER BY seq DESC LIMIT $1
"""

STATEMENTS: dict[str, tuple[str, tuple[object, ...], set[str]]] = {
    "claim": (
        CLAIM,
        ("agent", 100, 15.0, None, None, [], [], True),
        {"deliveries_pending", "deliveries_waiting", "events_pkey"},
    ),
    "claim of some types, and not of some scopes": (
        CLAIM,
        ("agent", 100, 15.0, ["http.request"], ["scope:1"], ["scope:2"], [1, 2], True),
        {"deliveries_pending", "deliveries_waiting", "events_pkey"},
    ),
    "next due": (NEXT_DUE, ("agent",), {"deliveries_waiting"}),
    "orphaned": (EXPIRED_LEASES, ("agent", None, 15.0), {"deliveries_leased"}),
    "recall": (END_OVERLONG_WAITS, ("agent", 60.0), {"deliveries_waiting"}),
    "renew": (RENEW, ("agent", [1, 2], [1, 2], 15.0), {"deliveries_pkey"}),
    "release": (RELEASE, ("agent", [1, 2], [1, 2], 0.0, None), {"deliveries_pkey"}),
    "ack": (ACK, ("agent", [1, 2], [1, 2]), {"deliveries_pkey"}),
    "nack": (NACK, ("agent", 1, 1, "no luck", None, 1.0, 2.0, 3), {"deliveries_pkey"}),
    "hold": (HOLD, ("agent", [1, 2], [1, 2], [], [], [], [], []), {"deliveries_pkey"}),
    "state of a scope": (
        STATE,
        ("agent", "scope:1", [1, 2], [1, 2], False),
        {"deliveries_held", "deliveries_claimed", "deliveries_pkey"},
    ),
    "held events of a scope": (HELD, ("agent", "scope:1"), {"deliveries_held"}),
    "held events that cannot be read": (
        DEAD_LETTER,
        ("agent", [1, 2], [1, 2], ["no luck", "no luck"], "scope:1"),
        {"deliveries_pkey"},
    ),
    "what is held too long": (AGED, ("agent", 60.0, "", 0, 1_000), {"deliveries_held"}),
    "drop": (DROP, ("agent", [1, 2], [1, 2]), {"deliveries_pkey"}),
}
LOG_STATEMENTS: dict[str, tuple[str, tuple[object, ...], set[str]]] = {
    "find": (FIND, ("event-500000",), {"events_id_key"}),
    "follow": (
        FOLLOW,
        ("3", HISTORY - 100, "1:1:", "4:4:", None, None, None, 500, SCAN_LIMIT),
        {"events_by_commit"},
    ),
    "page": (PAGE, (None, None, None, MAX_BIGINT, 100, SCAN_LIMIT, None), {"events_pkey"}),
    "latest of a rare scope": (
        PAGE,
        (None, "none", None, MAX_BIGINT, 100, 5_000, LONG_AGO),
        {"events_pkey"},
    ),
    "events within a budget": (
        READ_EVENTS,
        (list(range(1_000, 1_050)), 1_000_000),
        {"events_pkey"},
    ),
    "status of an event": (STATUS, ("event-500000",), {"events_id_key", "events_of_dropped"}),
    "stats": (
        STATS,
        (EXACT_COUNT_LIMIT,),
        {"deliveries_pending", "deliveries_waiting", "deliveries_held"},
    ),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def grown(server_url: str, make_settings: Any) -> AsyncGenerator[Settings]:
    """A database with a million events of history and ten owed, analysed."""
    async with a_database(server_url) as url:
        settings: Settings = make_settings(url)
        await migrate(settings)
        connection = await connect(patient(settings))
        await write(connection, HISTORY, OWED)
        await connection.execute("ANALYZE")
        await connection.close()
        yield settings


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def burst(server_url: str, make_settings: Any) -> AsyncGenerator[Settings]:
    """A database with 50,000 owed events, whose tables were last analysed when they were empty."""
    async with a_database(server_url) as url:
        settings: Settings = make_settings(url)
        await migrate(settings)
        connection = await connect(patient(settings))
        for table in ("events", "deliveries"):
            await connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
        await connection.execute("ANALYZE")
        await write(connection, BURST, BURST)
        await connection.close()
        yield settings


def patient(settings: Settings) -> Settings:
    """The owner's settings, for statements of a test that write more than any of the service."""
    return settings.owner.model_copy(update={"database_timeout": 600})


async def write(connection: asyncpg.Connection, history: int, owed: int) -> None:
    """Fill the log, and owe its last events."""
    indexes = [
        row["indexdef"]
        for row in await connection.fetch(
            "SELECT indexdef FROM pg_indexes WHERE tablename = 'events'"
            " AND indexname IN ('events_by_time', 'events_by_commit')"
        )
    ]
    await connection.execute("DROP INDEX events_by_time, events_by_commit")
    await connection.execute(WRITE, history)
    for index in indexes:
        await connection.execute(index)
    await connection.execute(OWE, owed)


async def plan_of(settings: Settings, sql: str, args: tuple[object, ...]) -> dict[str, Any]:
    """Run a statement as the store's own connections do, undo it, and return its plan."""
    connection = await connect(settings)
    try:
        async with connection.transaction():
            text = await connection.fetchval(
                f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}", *args
            )
            raise Undone(json.loads(text)[0]["Plan"])
    except Undone as undone:
        return undone.plan
    finally:
        await connection.close()


class Undone(Exception):
    """Ends a transaction without its effects, and brings the plan out of it."""

    def __init__(self, plan: dict[str, Any]) -> None:
        super().__init__()
        self.plan = plan


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """All nodes of a plan."""
    return [plan, *(node for child in plan.get("Plans", []) for node in nodes(child))]


def check(plan: dict[str, Any], wanted: set[str], pages: int) -> None:
    """Hold a plan to its indexes, and to what it may read."""
    story = json.dumps(plan, indent=1)
    used = {node["Index Name"] for node in nodes(plan) if "Index Name" in node}
    scanned = {
        node["Relation Name"]
        for node in nodes(plan)
        if node["Node Type"] == "Seq Scan" and node["Relation Name"] in {"events", "deliveries"}
    }
    assert wanted <= used, f"it should use {wanted - used}:\n{story}"
    assert not scanned, f"it reads all of {scanned}:\n{story}"
    read = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    assert read <= pages, f"it looks at {read} pages:\n{story}"


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", [*STATEMENTS, *LOG_STATEMENTS])
async def test_with_a_million_events_of_history_it_goes_by_index(
    grown: Settings, name: str
) -> None:
    sql, args, wanted = {**STATEMENTS, **LOG_STATEMENTS}[name]

    check(await plan_of(grown, sql, args), wanted, PAGES)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", STATEMENTS)
async def test_with_statistics_of_an_empty_table_it_goes_by_index(
    burst: Settings, name: str
) -> None:
    sql, args, wanted = STATEMENTS[name]

    check(await plan_of(burst, sql, args), wanted, 4 * PAGES)


AT_ONCE = 500  # tokens of one statement
WASTED = 20  # rows that a statement may look at in vain
SEQS = f"'{{{','.join(str(seq) for seq in range(1_000, 1_000 + AT_ONCE))}}}'::bigint[]"
FENCES = f"'{{{','.join(['7'] * AT_ONCE)}}}'::bigint[]"
REASONS = f"'{{{','.join(['none'] * AT_ONCE)}}}'::text[]"
WAITS = f"array_fill(NULL::float8, ARRAY[{AT_ONCE}])"
NOTES = f"array_fill('{{}}'::text, ARRAY[{AT_ONCE}])"
SETTLING: dict[str, tuple[str, str]] = {
    "ack": (ACK, ""),
    "renew": (RENEW, ", 15.0"),
    "release": (RELEASE, ", 0.0, NULL"),
    "hold": (HOLD, f", {SEQS}::text[], {NOTES}, {SEQS}, {WAITS}, {SEQS}"),
    "drop": (DROP, ""),
    "held events that cannot be read": (DEAD_LETTER, f", {REASONS}, 'scope:1'"),
}
"""Statements that settle many deliveries at once, with what they take after their tokens."""


@pytest.mark.parametrize("pooled", [False, True], ids=["dedicated", "pooled"])
@pytest.mark.parametrize("name", SETTLING)
async def test_what_is_settled_is_found_by_its_key_although_it_was_planned_for_an_empty_table(
    settings: Settings, name: str, pooled: bool
) -> None:
    sql, rest = SETTLING[name]
    execute = f"EXECUTE settle('agent', {SEQS}, {FENCES}{rest})"
    # An action is settled on a connection of the pool or of a session, whose plans are the server's choice.
    owner = settings.owner
    connection = await (asyncpg.connect(owner.dsn) if pooled else connect(owner))
    await connection.execute("ALTER TABLE deliveries SET (autovacuum_enabled = off)")
    await connection.execute(f"PREPARE settle AS {sql}")
    for _ in range(10):  # when there is nothing yet: this plan is kept
        await connection.execute(execute)
    await write(connection, BURST, BURST)
    await connection.execute("UPDATE deliveries SET fence = 7, lease = 'shared'")

    text = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {execute}")
    await connection.close()

    plan = json.loads(text)[0]["Plan"]
    story = json.dumps(plan, indent=1)
    wasted = sum(
        node.get(f"Rows Removed by {what}", 0) * node["Actual Loops"]
        for node in nodes(plan)
        for what in ("Filter", "Join Filter", "Index Recheck")
    )
    assert plan["Actual Rows"] == AT_ONCE, story
    assert wasted <= WASTED, f"it settles {AT_ONCE} rows and looks at {wasted} in vain:\n{story}"


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("state", ["grown", "burst"])
async def test_a_replay_reads_in_order_and_sorts_nothing(
    state: str, grown: Settings, burst: Settings
) -> None:
    settings = grown if state == "grown" else burst
    connection = await asyncpg.connect(settings.dsn)  # as a pool's connection plans it
    args = [*(await window(connection)), None, None, None]

    async with connection.transaction():
        await connection.execute(DISABLE_SORT)
        text = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {REPLAY}", *args)
    await connection.close()

    kinds = [node["Node Type"] for node in nodes(json.loads(text)[0]["Plan"])]
    assert kinds in (["Index Scan"], ["Index Only Scan"]), text


async def window(connection: asyncpg.Connection) -> asyncpg.Record:
    """The hour around the middle of the log."""
    row = await connection.fetchrow(
        "SELECT m - interval '30 min', m + interval '30 min' FROM (SELECT timestamp AS m FROM events"
        " OFFSET (SELECT count(*) FROM events) / 2 LIMIT 1) AS middle"
    )
    assert row
    return row


@pytest.mark.asyncio(loop_scope="module")
async def test_a_claim_without_its_index_would_be_noticed(burst: Settings) -> None:
    connection = await connect(burst.owner)
    await connection.execute("ALTER INDEX deliveries_pending RENAME TO aside")
    await connection.close()

    sql, args, wanted = STATEMENTS["claim"]
    with pytest.raises(AssertionError, match="it should use"):
        check(await plan_of(burst, sql, args), wanted, PAGES)
