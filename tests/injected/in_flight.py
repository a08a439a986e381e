"""Events on their way while a project is updated: `in_flight.py before` puts them there, `after` looks.

Run with the project's `src` to import from, and DATABASE_URL of a database of its own.
"""

import asyncio
import os
import sys

import asyncpg

from my_agent.agent import run_agent
from my_agent.config import get_settings
from my_agent.core.events import HTTPEvent
from my_agent.infra.store import EventStore
from my_agent.migrations import migrate
from my_agent.runtime import open_service

PATIENCE = 60  # seconds
HELD, PENDING = 2, 4
DEAD = "UPDATE deliveries SET dead_at = now(), error = 'no luck' WHERE seq = $1"


def event(number: int) -> HTTPEvent:
    """One of the events."""
    return HTTPEvent(id=f"event-{number}", source="test", method="GET", path=f"/{number}")


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


async def until(store: EventStore, held: int) -> None:
    """Wait until so many events are held, and no other is owed."""
    async with asyncio.timeout(PATIENCE):
        while True:
            [stats] = await store.stats()
            if (stats.depth, stats.in_flight, stats.held) == (0, 0, held):
                return
            await asyncio.sleep(0.05)


async def create(url: str) -> None:
    """Make the database."""
    server, _, name = url.rpartition("/")
    connection = await asyncpg.connect(f"{server}/postgres")
    await connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    await connection.execute(f'CREATE DATABASE "{name}"')
    await connection.close()


if __name__ == "__main__":
    asyncio.run({"before": before, "after": after}[sys.argv[1]]())
