"""Resources of yours that open and close with the service, such as the client of another system."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import fields, replace

import logfire

from .config import Settings
from .core.deps import ReflexDeps
from .core.units import Seconds
from .infra.database import StartupError
from .infra.text import describe

# --- your imports start here ---
# --- your imports end here ---

type Open = Callable[[Settings], AbstractAsyncContextManager[object]]
"""Opens a resource for a block, and closes it at the end."""

RESOURCES: dict[str, Open] = {
    # --- your resources start here ---
    # --- your resources end here ---
}
"""Your resources by their field of `ReflexDeps`. They open in this order, and close in reverse order.

For example, `"cache": open_cache` with a field `cache` between the markers of `core/deps.py`. `open_cache(settings)` is an
`@asynccontextmanager` that yields the value of `deps.cache`.
"""

OPEN_TIMEOUT: Seconds = 30.0
CLOSE_TIMEOUT: Seconds = 5.0


@asynccontextmanager
async def open_resources(
    deps: ReflexDeps, resources: Mapping[str, Open]
) -> AsyncGenerator[ReflexDeps]:
    """Open resources for the block; provide dependencies that have them.

    Raises:
        StartupError: a resource cannot be opened in time, or `ReflexDeps` has no field of its name.
    """
    known = {each.name for each in fields(deps)}
    async with AsyncExitStack() as stack:
        for name, make in resources.items():
            if name not in known:
                raise StartupError(
                    f"The resource {name!r} has no field: add `{name}` between the markers of core/deps.py."
                )
            opened = await _open(name, make, deps.settings, stack)
            deps = replace(deps, **{name: opened})
        yield deps


async def _open(name: str, make: Open, settings: Settings, stack: AsyncExitStack) -> object:
    try:
        async with asyncio.timeout(OPEN_TIMEOUT):
            manager = make(settings)
            opened = await manager.__aenter__()
    except Exception as error:
        late = isinstance(error, TimeoutError) and not str(error)
        reason = f"it takes longer than {OPEN_TIMEOUT:g} s" if late else describe(error)
        raise StartupError(f"The resource {name!r} cannot be opened: {reason}.") from error
    stack.push_async_callback(_close, name, manager)
    return opened


async def _close(name: str, manager: AbstractAsyncContextManager[object]) -> None:
    """Close a resource; an error is logged, so that the others close too."""
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT):
            await manager.__aexit__(None, None, None)
    except Exception as error:
        logfire.error(
            "The resource {name} was not closed: {error}", name=name, error=describe(error)
        )
