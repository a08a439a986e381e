"""Commands that look after the queue: what is owed, what was given up, what is old."""

import json
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, NoReturn

import typer
from pydantic_core import to_jsonable_python

from .. import COMMAND
from ..infra.store import EventStore
from ..infra.store.codec import load_or_show
from .opening import duration, with_store
from .output import CommandFailed, Json, fail, say
from .tables import print_rows

app = typer.Typer()
dlq = typer.Typer(help="Look after events that were given up.", no_args_is_help=True)
app.add_typer(dlq, name="dlq")

Whose = Annotated[str, typer.Option("--subscriber", help="Whose: `stats` shows them all.")]
EventId = Annotated[str, typer.Argument(help="As `dlq list` shows it.")]


@app.command(epilog=f"Examples: {COMMAND} stats, {COMMAND} stats --json | jq '.[0].depth'")
def stats(as_json: Json = False) -> None:
    """Show what each subscriber is owed."""
    rows = [row._asdict() for row in with_store(lambda store: store.stats())]
    print_rows(rows, "Nobody is subscribed.", as_json=as_json)


@app.command(epilog=f"Example: {COMMAND} prune --older-than 30d")
def prune(
    older_than: Annotated[str, typer.Option(help="Age, as 30d, 12h ...")],
) -> None:
    """Delete old events that are owed to nobody. Their ids then count as new again."""
    age = duration(older_than).total_seconds()
    say(f"Deleted {with_store(lambda store: store.prune(age))} events")


@dlq.command("list", epilog=f"Examples: {COMMAND} dlq list, {COMMAND} dlq list --limit 5 --json")
def list_dead(
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 100,
    whose: Whose = "agent",
    as_json: Json = False,
) -> None:
    """Show the newest dead letters."""
    letters = _with_dead(whose, lambda store: store.dlq_list(limit))
    rows = [
        {
            "id": item.id,
            "type": item.type,
            "source": item.source,
            "died": item.dead_at.isoformat(timespec="seconds"),
            "attempts": item.attempts,
            "error": item.error,
        }
        for item in letters
    ]
    print_rows(rows, "The DLQ is empty.", as_json=as_json)


@dlq.command("show", epilog=f"Example: {COMMAND} dlq show 01933b5e-...")
def show(event_id: EventId, whose: Whose = "agent") -> None:
    """Show one dead letter with everything that is known of it, as JSON."""
    letter = _with_dead(whose, lambda store: store.dlq_show(event_id))
    if letter is None:
        _no_such(event_id)
    said = {name: load_or_show(getattr(letter, name)) for name in ("payload", "meta")}
    say(json.dumps(to_jsonable_python(letter._asdict() | said), indent=2))


@dlq.command("retry", epilog=f"Example: {COMMAND} dlq retry 01933b5e-...")
def retry(event_id: EventId, whose: Whose = "agent") -> None:
    """Give one dead letter all its attempts again."""
    if not _with_dead(whose, lambda store: store.dlq_retry(event_id)):
        _no_such(event_id)
    say(f"{event_id} is due again")


@dlq.command("retry-all", epilog=f"Example: {COMMAND} dlq retry-all")
def retry_all(whose: Whose = "agent") -> None:
    """Give all dead letters all their attempts again."""
    count = _with_dead(whose, lambda store: store.dlq_retry_all())
    say(f"{count} events are due again")


@dlq.command("purge", epilog=f"Examples: {COMMAND} dlq purge, {COMMAND} dlq purge 01933b5e-...")
def purge(
    event_id: Annotated[str | None, typer.Argument(help="Only this one.")] = None,
    whose: Whose = "agent",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Drop all dead letters, or one. The log keeps their events."""
    if not yes:
        typer.confirm(f"Drop {event_id or 'all dead letters'}?", abort=True)
    dropped = _with_dead(whose, lambda store: store.dlq_purge(event_id))
    if event_id is not None and not dropped:
        _no_such(event_id)
    say(f"Dropped {dropped} dead letters")


def _with_dead[T](whose: str, run: Callable[[EventStore], Coroutine[Any, Any, T]]) -> T:
    """Do something with the dead letters of a subscriber.

    Raises:
        CommandFailed: there is no such subscriber.
    """

    async def checked(store: EventStore) -> T:
        names = [each.subscriber for each in await store.stats()]
        if whose not in names:
            known = ", ".join(names)
            raise CommandFailed(f"--subscriber: there is no {whose!r}; there are {known}")
        return await run(store)

    return with_store(checked, whose)


def _no_such(event_id: str) -> NoReturn:
    fail(f"There is no dead letter {event_id!r}; `{COMMAND} dlq list` shows which there are.")
