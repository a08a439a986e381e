"""The command line: run the service, migrate its database, look after its queue."""

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import ExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from pydantic_settings import SettingsError
from rich.console import Console
from rich.table import Table

from . import COMMAND
from .config import Settings, get_settings
from .infra.database import DATABASE_AWAY, StartupError, check_database, open_database
from .infra.store import EventStore
from .serving import require_url, run_server, run_worker, somewhere_to_store

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False)
dlq = typer.Typer(help="Look after events that were given up.", no_args_is_help=True)
app.add_typer(dlq, name="dlq")

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for other programs.")]


def main() -> None:
    """Run the command line; whatever is wrong is said in one sentence, with exit code 1."""
    try:
        app()
    except (StartupError, ValidationError, SettingsError, ValueError) as error:
        _fail(_sentence(error))
    except DATABASE_AWAY as error:
        _fail(f"The database cannot be reached ({error}): start it, or correct DATABASE_URL.")


@app.command()
def dev(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    reload: Annotated[bool, typer.Option(help="Restart when code changes.")] = True,
) -> None:
    """Run the service on this machine, with a database of its own unless DATABASE_URL is set."""
    with somewhere_to_store():
        run_server(host, port, reload=reload)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    reload: Annotated[bool | None, typer.Option(help="Restart when code changes.")] = None,
    worker: Annotated[bool, typer.Option(help="Run the agent in this process too.")] = True,
) -> None:
    """Run the API, and with it the agent, on the database of DATABASE_URL."""
    if not worker:
        os.environ["API_WORKER"] = "false"
        get_settings.cache_clear()
    require_url(get_settings())
    run_server(host, port, reload=get_settings().api_reload if reload is None else reload)


@app.command()
def worker() -> None:
    """Run the agent alone; start as many of these as you like."""
    settings = get_settings()
    require_url(settings)
    run_worker(settings)


@app.command()
def migrate(
    revision: Annotated[
        str | None, typer.Option(help="Write an empty migration of your own, with this title.")
    ] = None,
) -> None:
    """Bring the database to the schema that this version needs."""
    from .migrations import create_revision, migrate_now  # not needed to look after a queue

    if revision is not None:
        typer.echo(f"Wrote {create_revision(revision)}")
        return
    with somewhere_to_store() as settings:
        asyncio.run(check_database(settings))
        applied = migrate_now(settings)
    typer.echo("\n".join(applied) or "The schema is up to date.")


@app.command()
def replay(
    start: Annotated[str | None, typer.Option(help="From this ISO time.")] = None,
    end: Annotated[str | None, typer.Option(help="Up to this ISO time.")] = None,
    last: Annotated[str | None, typer.Option(help="Only the last 30m, 1h, 2d ...")] = None,
    types: Annotated[str | None, typer.Option(help="Types of event, with commas.")] = None,
    scope: Annotated[str | None, typer.Option(help="Only this scope.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to a file.")] = None,
) -> None:
    """Print past events as JSON Lines, in the order in which they happened; changes nothing."""
    if (start is None) == (last is None):
        raise typer.BadParameter("give --start or --last, one of them")
    since = _ago(last) if last else _time("--start", str(start))
    until = _time("--end", end) if end else None

    async def run(store: EventStore) -> int:
        count = 0
        with ExitStack() as stack:
            out = stack.enter_context(output.open("w")) if output else sys.stdout
            wanted = types.split(",") if types else None
            async for event in store.replay(since, until, wanted, scope=scope):
                out.write(event.model_dump_json() + "\n")
                count += 1
        return count

    typer.echo(f"Replayed {_with_store(run)} events", err=True)


@app.command()
def tail(
    types: Annotated[str | None, typer.Option(help="Types of event, with commas.")] = None,
    scope: Annotated[str | None, typer.Option(help="Only this scope.")] = None,
) -> None:
    """Print events as they happen, until interrupted."""

    async def run(store: EventStore) -> None:
        wanted = types.split(",") if types else None
        async for _, event in store.follow(event_types=wanted, scope=scope):
            details = event.model_dump_json(exclude={"id", "type", "timestamp", "meta", "scope"})
            typer.echo(f"{event.timestamp:%H:%M:%S.%f} {event.scope} {event.type} {details}")

    _with_store(run)


@app.command()
def stats(as_json: Json = False) -> None:
    """Show what each subscriber is owed."""
    rows = [row._asdict() for row in _with_store(lambda store: store.stats())]
    _print(rows, "Nobody is subscribed.", as_json)


@app.command()
def prune(
    older_than: Annotated[str, typer.Option(help="Age, as 30d, 12h ...")],
) -> None:
    """Delete old events that are owed to nobody. Their ids then count as new again."""
    age = _duration(older_than).total_seconds()
    typer.echo(f"Deleted {_with_store(lambda store: store.prune(age))} events")


@app.command()
def health(
    url: Annotated[str | None, typer.Option(help="Of the service; its own port otherwise.")] = None,
) -> None:
    """Ask a running service whether it is healthy; exit code 1 if not."""
    import httpx2  # quick to start: this runs every few seconds in a container

    address = url or f"http://127.0.0.1:{get_settings().api_port}/health"
    try:
        response = httpx2.get(address, timeout=3)
    except httpx2.HTTPError as error:
        _fail(f"{address} does not answer: {error}")
    else:
        typer.echo(response.text)
        raise typer.Exit(0 if response.is_success else 1)


@dlq.command("list")
def dlq_list(limit: int = 100, as_json: Json = False) -> None:
    """Show the newest dead letters."""
    letters = _with_store(lambda store: store.dlq_list(limit))
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
    _print(rows, "The DLQ is empty.", as_json)


@dlq.command("show")
def dlq_show(event_id: str) -> None:
    """Show one dead letter with everything that is known of it."""
    letter = _with_store(lambda store: store.dlq_show(event_id))
    if letter is None:
        _fail(f"There is no dead letter {event_id!r}; `dlq list` shows which there are.")
    else:
        typer.echo(json.dumps(letter._asdict(), default=str, indent=2))


@dlq.command("retry")
def dlq_retry(event_id: str) -> None:
    """Give one dead letter all its attempts again."""
    if not _with_store(lambda store: store.dlq_retry(event_id)):
        _fail(f"There is no dead letter {event_id!r}; `dlq list` shows which there are.")
    typer.echo(f"{event_id} is due again")


@dlq.command("retry-all")
def dlq_retry_all() -> None:
    """Give all dead letters all their attempts again."""
    typer.echo(f"{_with_store(lambda store: store.dlq_retry_all())} events are due again")


@dlq.command("purge")
def dlq_purge(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Drop all dead letters. The log keeps their events."""
    if not yes:
        typer.confirm("Drop all dead letters?", abort=True)
    typer.echo(f"Dropped {_with_store(lambda store: store.dlq_purge())} dead letters")


def _with_store[T](run: Callable[[EventStore], Coroutine[Any, Any, T]]) -> T:
    async def opened(settings: Settings) -> T:
        async with _store(settings) as store:
            return await run(store)

    with somewhere_to_store() as settings:
        return asyncio.run(opened(settings))


@asynccontextmanager
async def _store(settings: Settings) -> AsyncGenerator[EventStore]:
    await check_database(settings)
    async with open_database(settings) as database:
        store = EventStore(database.sessions, database.pool, settings=settings)
        try:
            yield store
        finally:
            await store.close()


def _print(rows: list[dict[str, Any]], nothing: str, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(rows, default=str))
    elif not rows:
        typer.echo(nothing)
    else:
        table = Table(*rows[0])
        for row in rows:
            table.add_row(*(str(value) for value in row.values()))
        Console().print(table)


def _duration(text: str) -> timedelta:
    found = re.fullmatch(r"(\d{1,9})([smhd])", text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is no duration; write 30s, 15m, 1h or 2d")
    return timedelta(seconds=int(found[1]) * UNITS[found[2]])


def _ago(text: str) -> datetime:
    return datetime.now(UTC) - _duration(text)


def _time(option: str, text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        message = f"{option}: {text!r} is no ISO time like 2026-01-31T12:00"
        raise typer.BadParameter(message) from error
    return time if time.tzinfo else time.astimezone()


def _sentence(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    problems = [
        f"{'.'.join(map(str, item['loc'])).upper() or 'Settings'}:"
        f" {item['msg'].removeprefix('Value error, ')}"
        for item in error.errors()
    ]
    return "; ".join(problems)


def _fail(sentence: str) -> None:
    typer.echo(f"{COMMAND}: {sentence}", err=True)
    raise SystemExit(1)
