"""Commands that manage the queue: deliveries, dead letters and old events."""

import json
import sys
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, NoReturn

import typer
from pydantic_core import to_jsonable_python

from .. import COMMAND
from ..infra.store import EventStore
from ..infra.store.codec import load_json_or_text
from ..infra.store.erase import parse_where, select
from .options import duration
from .output import CommandFailed, Json, confirm, echo, fail
from .store import operator, with_store
from .tables import print_rows

app = typer.Typer()
dlq = typer.Typer(help="List, retry and purge dead letters.", no_args_is_help=True)
app.add_typer(dlq, name="dlq")

Subscriber = Annotated[
    str, typer.Option("--subscriber", help="The subscriber; `stats` lists all of them.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count: change nothing.")]
EventId = Annotated[str, typer.Argument(help="The id, as `dlq list` shows it.")]


@app.command(epilog=f"Examples: {COMMAND} stats, {COMMAND} stats --json | jq '.[0].depth'")
def stats(as_json: Json = False) -> None:
    """Show the pending, in-flight, held and dead deliveries of each subscriber."""
    rows = [
        row._asdict() | {"paused_at": row.paused_at and row.paused_at.isoformat(timespec="seconds")}
        for row in with_store(lambda store: store.stats())
    ]
    print_rows(rows, "There are no subscribers.", as_json=as_json)


@app.command(
    epilog=f"Examples: {COMMAND} prune --older-than 30d --dry-run, {COMMAND} prune --older-than 30d"
)
def prune(
    older_than: Annotated[str, typer.Option(help="Their age, such as 30d or 12h.")],
    dry_run: DryRun = False,
) -> None:
    """Delete old events without pending deliveries. Their ids then count as new again."""
    age = duration(older_than).total_seconds()
    if dry_run:
        echo(f"Would delete {with_store(lambda store: store.admin.count_prunable(age))} events")
        return
    echo(f"Deleted {with_store(lambda store: store.prune(age, by=operator()))} events")


@app.command(
    epilog=f"Examples: {COMMAND} erase --scope user:ada --dry-run  |  {COMMAND} erase --scope user:ada"
    f"  |  {COMMAND} erase --where " + """'{"customer": "42"}'"""
)
def erase(
    name: Annotated[
        str | None, typer.Argument(metavar="[SCOPE]", help="The same as --scope.")
    ] = None,
    scope: Annotated[
        str | None, typer.Option("--scope", help="The whole scope, as `tail` shows it.")
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            "--where", metavar="JSON", help="Fields and values that the payload contains."
        ),
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Erase what events say, in the log, actions, dead letters and notes. Ids, types, times and causes stay."""
    if (name is not None) + (scope is not None) + (where is not None) != 1:
        raise typer.BadParameter("give either --scope or --where")
    fields = None if where is None else parse_where(where)
    what = select(scope if name is None else name, fields)
    found = with_store(lambda store: store.admin.count_erasable(what))
    if what.scope is not None and not found.known:
        fail(f"The log has no event of scope {what.scope!r}; `{COMMAND} tail` shows the scopes.")
    rest = f" and {found.repeating} of their actions and drops" if found.repeating else ""
    if dry_run:
        echo(f"Would erase {found.events} events{rest}")
        return
    if what.where is not None and not found.events + found.repeating:
        echo("Erased 0 events: no payload contains that, or all that did are erased")
        return
    if not yes and not sys.stdin.isatty():
        fail("Nobody can be asked without a terminal: add --yes, or --dry-run to count only.")
    if not yes:
        confirm(f"Erase {found.events} events{rest}? This cannot be undone.")
    erased = with_store(lambda store: store.erase(what.scope, where=fields, by=operator()))
    echo(f"Erased {erased} events")


@dlq.command("list", epilog=f"Examples: {COMMAND} dlq list, {COMMAND} dlq list --limit 5 --json")
def list_dead(
    limit: Annotated[int, typer.Option(min=1, help="The most dead letters to show.")] = 100,
    subscriber: Subscriber = "agent",
    as_json: Json = False,
) -> None:
    """Show the newest dead letters."""
    rows = _with_dead_letters(subscriber, lambda store: _dead_letter_rows(store, limit))
    print_rows(rows, "The DLQ is empty.", as_json=as_json)


async def _dead_letter_rows(store: EventStore, limit: int) -> list[dict[str, Any]]:
    """Return the shown columns of the newest dead letters, without keeping whole pages in memory."""
    rows: list[dict[str, Any]] = []
    page = await store.admin.dlq_page(limit)
    while True:
        rows += [
            {
                "id": item.id,
                "type": item.type,
                "source": item.source,
                "died": item.dead_at.isoformat(timespec="seconds"),
                "attempts": item.attempts,
                "error": item.error,
            }
            for item in page.letters
        ]
        if page.stopped_at != "bytes":
            return rows
        page = await store.admin.dlq_page(limit - len(rows), before=page.before)


@dlq.command("show", epilog=f"Example: {COMMAND} dlq show 01933b5e-...")
def show(event_id: EventId, subscriber: Subscriber = "agent") -> None:
    """Show one dead letter with all its fields, as JSON."""
    letter = _with_dead_letters(subscriber, lambda store: store.dlq_show(event_id))
    if letter is None:
        _not_found(event_id)
    stored = {name: load_json_or_text(getattr(letter, name)) for name in ("payload", "meta")}
    echo(*json.dumps(to_jsonable_python(letter._asdict() | stored), indent=2).split("\n"))


@dlq.command("retry", epilog=f"Example: {COMMAND} dlq retry 01933b5e-...")
def retry(event_id: EventId, subscriber: Subscriber = "agent") -> None:
    """Retry one dead letter, with all its attempts."""
    if not _with_dead_letters(subscriber, lambda store: store.dlq_retry(event_id, by=operator())):
        _not_found(event_id)
    echo(f"{event_id} is due again")


@dlq.command("retry-all", epilog=f"Example: {COMMAND} dlq retry-all")
def retry_all(subscriber: Subscriber = "agent") -> None:
    """Retry all dead letters, each with all its attempts."""
    count = _with_dead_letters(subscriber, lambda store: store.dlq_retry_all(by=operator()))
    echo(f"{count} events are due again")


@dlq.command(
    "purge",
    epilog=f"Examples: {COMMAND} dlq purge --dry-run, {COMMAND} dlq purge, {COMMAND} dlq purge 01933b5e-...",
)
def purge(
    event_id: Annotated[str | None, typer.Argument(help="Purge only this one.")] = None,
    subscriber: Subscriber = "agent",
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Purge all dead letters, or one. The log keeps their events."""
    if dry_run or not yes:
        count = _with_dead_letters(subscriber, lambda store: store.admin.dlq_count(event_id))
        if event_id is not None and not count:
            _not_found(event_id)
        if dry_run or not count:
            echo(f"Would purge {count} dead letters")
            return
        confirm(f"Purge {event_id or f'{count} dead letters of {subscriber}'}?")
    dropped = _with_dead_letters(subscriber, lambda store: store.dlq_purge(event_id, by=operator()))
    if event_id is not None and not dropped:
        _not_found(event_id)
    echo(f"Purged {dropped} dead letters")


def _with_dead_letters[T](
    subscriber: str, run: Callable[[EventStore], Coroutine[Any, Any, T]]
) -> T:
    """Run a coroutine with the store of a subscriber.

    Raises:
        CommandFailed: the subscriber does not exist.
    """

    async def checked(store: EventStore) -> T:
        names = [each.subscriber for each in await store.stats()]
        if subscriber not in names:
            known = ", ".join(names)
            raise CommandFailed(f"--subscriber: {subscriber!r} does not exist; use one of {known}")
        return await run(store)

    return with_store(checked, subscriber)


def _not_found(event_id: str) -> NoReturn:
    fail(f"The dead letter {event_id!r} does not exist: `{COMMAND} dlq list` shows all.")
