"""Show the progress of a replay on a terminal.

Progress is measured by the time of the events: counting them takes as long as the replay.
"""

import time
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager
from datetime import UTC, datetime

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ..core.units import Seconds
from ..infra.store import Stored

REDRAW: Seconds = 0.1


@contextmanager
def progress_of(
    since: datetime, until: datetime | None, events: AsyncIterator[Stored], *, hidden: bool
) -> Generator[AsyncIterator[Stored]]:
    """Pass the events on, and show their number and the share of the period that is done."""
    console = Console(stderr=True)
    if hidden or not console.is_terminal:
        yield events
        return
    columns = (
        SpinnerColumn("dots" if console.encoding.startswith("utf") else "line"),
        BarColumn(),
        TextColumn("{task.fields[count]} events"),
        TextColumn("up to {task.fields[at]:%Y-%m-%d %H:%M:%S}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield _counted(progress, since, until or datetime.now(UTC), events)


async def _counted(
    progress: Progress, since: datetime, until: datetime, events: AsyncIterator[Stored]
) -> AsyncIterator[Stored]:
    task, count, drawn = None, 0, 0.0
    async for event in events:
        count += 1
        if task is None:
            since = max(since, event.timestamp)  # the log starts here
            task = progress.add_task(
                "", total=(until - since).total_seconds(), count=0, at=event.timestamp
            )
        if (now := time.monotonic()) - drawn > REDRAW:
            drawn = now
            done = (event.timestamp - since).total_seconds()
            progress.update(task, completed=done, count=count, at=event.timestamp)
        yield event
