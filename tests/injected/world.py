"""A store that Hypothesis may use: its tests are not asynchronous."""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from my_agent.config import Settings
from my_agent.infra.database import open_database
from my_agent.infra.store import EventStore
from my_agent.migrations import migrate

from .conftest import a_database


@dataclass
class World:
    """A store, and a way to call it from code that is not asynchronous."""

    store: EventStore
    call: Callable[[Coroutine[Any, Any, Any]], Any]


@contextmanager
def open_world(
    server_url: str, make_settings: Callable[[str], Settings], **changes: object
) -> Generator[World]:
    """Provide a store on a database of its own, with these changes to the settings of tests."""

    async def open_store(stack: AsyncExitStack) -> EventStore:
        settings = make_settings(await stack.enter_async_context(a_database(server_url)))
        settings = settings.model_copy(update=changes)
        await migrate(settings)
        database = await stack.enter_async_context(open_database(settings))
        store = EventStore(database.sessions, database.pool, settings=settings)
        stack.push_async_callback(store.close)
        return store

    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        yield World(runner.run(open_store(stack)), runner.run)
        runner.run(stack.aclose())
