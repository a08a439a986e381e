"""Nothing is lost, whatever dies when; and nothing is handled twice where nothing died.

Real processes, killed for real. Each test counts what was published, handled and acknowledged.
"""

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy.engine import make_url

from my_agent.config import Settings
from my_agent.core.events import Event
from my_agent.infra.database import DATABASE_UNAVAILABLE, Database, open_database
from my_agent.infra.process.embedded import cluster_of, embedded_postgres
from my_agent.infra.store import EventStore
from my_agent.infra.store.insert import insert_events
from my_agent.migrations import migrate

from .conftest import failure
from .journal import Journal, kill, stop, until_done, workers
from .processes import PATIENCE, environment

LEASE = "1"  # seconds
FOREVER = "600"  # seconds: longer than any test waits

type Worker = Callable[..., Awaitable[asyncio.subprocess.Process]]


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """Where the test's workers write."""
    return Journal(tmp_path / "journal")


@pytest.fixture
async def worker(settings: Settings, journal: Journal) -> AsyncGenerator[Worker]:
    """Start workers, which do not outlive the test."""
    async with workers(journal, "worker") as start_one:

        async def start_worker(*options: str, **env: str) -> asyncio.subprocess.Process:
            variables = environment(settings, **{"EVENT_LEASE": LEASE, **env})
            return await start_one(*options, env=variables)

        yield start_worker


async def published(store: EventStore, count: int) -> list[str]:
    """Publish so many events and return their ids."""
    events = [failure(number) for number in range(count)]
    await store.publish_many(events)
    return [event.id for event in events]


async def test_a_worker_killed_while_it_handles_loses_nothing(
    store: EventStore, worker: Worker, journal: Journal
) -> None:
    ids = await published(store, 50)
    first = await worker("--pause", FOREVER)
    await journal.until("handled", 10)

    await kill(first)
    second = await worker()
    await until_done(store)
    await stop(second)

    handled = journal.count("handled")
    assert journal.count("acked") == Counter(ids), "each is acknowledged once"
    assert set(handled) == set(ids)
    assert handled.total() == 60, "only what was in the dead worker's hand was handled again"


async def test_a_worker_killed_between_claiming_and_handling_loses_nothing(
    store: EventStore, worker: Worker, journal: Journal
) -> None:
    ids = await published(store, 50)
    first = await worker("--idle")
    await journal.until("claimed", 1)

    await kill(first)
    second = await worker()
    await until_done(store)
    await stop(second)

    assert journal.count("handled") == Counter(ids), (
        "each is handled once: the dead one handled none"
    )
    assert journal.count("acked") == Counter(ids)


async def test_a_worker_killed_while_its_acks_are_written_loses_nothing(
    store: EventStore, worker: Worker, journal: Journal, owner: asyncpg.Connection
) -> None:
    ids = await published(store, 50)
    await owner.execute(
        "CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql"
        " AS 'BEGIN PERFORM pg_sleep(1); RETURN NULL; END'"
    )
    await owner.execute(
        "CREATE TRIGGER linger AFTER DELETE ON deliveries"
        " FOR EACH STATEMENT EXECUTE FUNCTION linger()"
    )
    first = await worker()
    await journal.until("handled", 10)
    await asyncio.sleep(0.2)  # the statement is under way, and takes a second

    await kill(first)
    assert journal.count("acked").total() == 0, "it did not live to hear of the commit"
    await owner.execute("DROP TRIGGER linger ON deliveries")  # waits until the statement has ended
    acked = set(ids) - {row["id"] for row in await store.fetch(OWED)}
    second = await worker()
    await until_done(store)
    await stop(second)

    handled = journal.count("handled")
    assert set(handled) == set(ids)
    assert all(handled[each] == 1 for each in acked), "what was acknowledged does not come again"
    assert len(handled - Counter(ids)) <= 10, "only what was in the dead worker's hand comes again"


OWED = "SELECT e.id FROM deliveries d JOIN events e ON e.seq = d.seq"


@pytest.mark.parametrize("count", [2, 4])
async def test_workers_share_a_backlog_and_none_handles_what_another_has(
    store: EventStore, worker: Worker, journal: Journal, count: int
) -> None:
    workers = [await worker("--batch", "50") for _ in range(count)]

    ids = await published(store, 2_000)
    await until_done(store)
    await stop(*workers)

    assert journal.count("handled") == Counter(ids), "each event is handled once"
    assert journal.count("acked") == Counter(ids)


async def test_what_a_stopped_worker_had_not_begun_goes_back_at_once(
    store: EventStore, worker: Worker, journal: Journal
) -> None:
    ids = await published(store, 10)
    first = await worker("--idle", EVENT_LEASE=FOREVER)
    await journal.until("claimed", 1)

    await stop(first)
    second = await worker(EVENT_LEASE=FOREVER)
    await until_done(store)
    await stop(second)

    assert journal.count("handled") == Counter(ids)


async def test_a_worker_that_was_frozen_past_its_lease_settles_nothing(
    store: EventStore, worker: Worker, journal: Journal
) -> None:
    [event_id] = await published(store, 1)
    frozen = await worker("--pause", "0.5")
    await journal.until("handled", 1)
    frozen.send_signal(signal.SIGSTOP)
    other = await worker("--pause", "2")
    await journal.until("handled", 2)

    frozen.send_signal(signal.SIGCONT)
    await asyncio.sleep(1.5)  # it wakes up and acknowledges, while the other one still handles
    assert journal.count("acked").total() == 0, "a stale worker's ack does not count"
    assert len(await store.fetch(OWED)) == 1, "the event is still owed"

    await until_done(store)
    assert journal.count("acked") == Counter([event_id]), "it is the other one's ack that counts"
    await stop(frozen, other)


async def test_a_wake_up_that_was_never_sent_costs_a_check_and_no_event(
    store: EventStore, database: Database, worker: Worker, journal: Journal
) -> None:
    idle = await worker(EVENT_FALLBACK_CHECK="1")
    await store.publish(failure())
    await journal.until("acked", 1)

    async with database.pool.acquire() as connection, connection.transaction():
        await insert_events(connection.fetch, [failure()], store.log.limits)
        # And the publisher dies here.

    await journal.until("acked", 2)
    await stop(idle)


async def test_a_listening_connection_that_is_cut_is_replaced(
    store: EventStore, worker: Worker, journal: Journal
) -> None:
    idle = await worker(EVENT_FALLBACK_CHECK=FOREVER)
    await store.publish(failure())
    await journal.until("acked", 1)

    cut = await store.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE query LIKE 'LISTEN%' OR query LIKE 'SELECT current_setting%'"
    )
    assert cut, "somebody listened"
    await store.publish(failure())

    await journal.until("acked", 2)
    await stop(idle)


async def test_an_event_that_kills_its_worker_dies_and_takes_nobody_with_it(
    store: EventStore, settings: Settings, worker: Worker, journal: Journal
) -> None:
    ids = await published(store, 100)
    killer = ids[37]
    deaths = 0

    async with asyncio.timeout(3 * PATIENCE):
        while not await store.dlq_list():
            process = await worker("--die-of", killer, EVENT_LEASE="0.5")
            while process.returncode is None and not await store.dlq_list():
                await asyncio.sleep(0.05)
            deaths += process.returncode is not None
    await until_done(store, dead=1)

    [letter] = await store.dlq_list()
    assert letter.id == killer
    assert "worker died" in (letter.error or "")
    assert journal.count("acked") == Counter(set(ids) - {killer}), (
        "the others are acknowledged once"
    )
    assert deaths <= settings.event_max_attempts + 1, "dying in company once, then alone each time"


async def test_a_server_that_restarts_under_load_loses_nothing(
    settings: Settings, worker: Worker, journal: Journal, tmp_path: Path
) -> None:
    with embedded_postgres(tmp_path) as url:
        own = settings.model_copy(update={"database_url": url, "database_migrate_url": None})
        await migrate(own)
        process = await worker(DATABASE_URL=url, DATABASE_MIGRATE_URL="")
        async with open_database(own) as database:
            store = EventStore(database.sessions, database.pool, settings=own)
            publishing = asyncio.create_task(publish_steadily(store, 300))
            await journal.until("acked", 50)

            cluster_of(tmp_path).stop("immediate")
            await asyncio.sleep(0.5)
            cluster_of(tmp_path).start(str(make_url(url).port))

            ids = await asyncio.wait_for(publishing, PATIENCE)
            await until_done(store)
            await store.close()
        await stop(process)
    cluster_of(tmp_path).remove()

    assert set(journal.count("handled")) == set(ids), "every event that was accepted is handled"
    again = journal.count("handled") - Counter(ids)
    assert again.total() <= 10, "only what was in hand when the server went down comes again"


async def publish_steadily(store: EventStore, count: int) -> list[str]:
    """Publish a hundred a second, each until it is accepted."""
    events: list[Event] = [failure(number) for number in range(count)]
    for event in events:
        while True:
            try:
                await store.publish(event)
                break
            except (*DATABASE_UNAVAILABLE, asyncpg.PostgresError):
                await asyncio.sleep(0.1)
        await asyncio.sleep(0.01)
    return [event.id for event in events]
