"""Commands that pause and resume a subscriber."""

from typing import Annotated

import typer

from .. import COMMAND
from ..infra.store import EventStore
from ..infra.store.pausing import PauseAction, UnknownSubscriber
from .output import CommandFailed, echo
from .store import operator, with_store

app = typer.Typer()

Name = Annotated[
    str, typer.Argument(metavar="[SUBSCRIBER]", help="Its name; `stats` lists all of them.")
]


@app.command(epilog=f"Examples: {COMMAND} pause, {COMMAND} pause audit")
def pause(subscriber: Name = "agent") -> None:
    """Let no worker claim for a subscriber until `resume`. What is in flight ends, and events are accepted."""
    if _change("pause", subscriber):
        echo(f"{subscriber} is paused: `{COMMAND} resume {subscriber}` ends that")
    else:
        echo(f"{subscriber} is paused already")


@app.command(epilog=f"Examples: {COMMAND} resume, {COMMAND} resume audit")
def resume(subscriber: Name = "agent") -> None:
    """Let the workers of a subscriber claim again, at once."""
    if _change("resume", subscriber):
        echo(f"{subscriber} is resumed")
    else:
        echo(f"{subscriber} is not paused")


def _change(action: PauseAction, subscriber: str) -> bool:
    """Pause or resume a subscriber, and return False if it is so already.

    Raises:
        CommandFailed: it does not exist.
    """

    async def run(store: EventStore) -> bool:
        try:
            if action == "pause":
                return await store.admin.pause(subscriber, operator())
            return await store.admin.resume(subscriber, operator())
        except UnknownSubscriber as error:
            known = ", ".join(await store.admin.subscribers())
            raise CommandFailed(f"{error}; use one of {known}") from error

    return with_store(run)
