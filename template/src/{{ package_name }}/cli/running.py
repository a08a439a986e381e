"""Commands that run the service, or make it ready to run."""

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer

from .. import COMMAND
from ..config import get_settings
from ..infra import heartbeat
from ..infra.database import check_database
from ..infra.ending import leave
from ..serving import require_url, run_server, run_worker, somewhere_to_store
from .opening import in_words
from .output import fail

app = typer.Typer()

Host = Annotated[str | None, typer.Option(help="Address to listen on.")]
Port = Annotated[int | None, typer.Option(help="Port to listen on.")]
Heartbeat = Annotated[
    Path | None,
    typer.Option("--heartbeat", help="A file in which a living worker says how it is."),
]


@app.command(epilog=f"Example: {COMMAND} dev --port 8001")
def dev(
    host: Host = None,
    port: Port = None,
    reload: Annotated[bool, typer.Option(help="Restart when code changes.")] = True,
) -> None:
    """Run the service on this machine, with a database of its own unless DATABASE_URL is set."""
    with somewhere_to_store():
        code = run_server(host, port, reload=reload)
    leave(code)


@app.command(epilog=f"Example: {COMMAND} serve --host 0.0.0.0 --no-worker")
def serve(
    host: Host = None,
    port: Port = None,
    reload: Annotated[bool | None, typer.Option(help="Restart when code changes.")] = None,
    worker: Annotated[bool, typer.Option(help="Run the agent in this process too.")] = True,
) -> None:
    """Run the API, and with it the agent, on the database of DATABASE_URL."""
    if not worker:
        os.environ["API_WORKER"] = "false"
        get_settings.cache_clear()
    require_url(get_settings())
    leave(run_server(host, port, reload=get_settings().api_reload if reload is None else reload))


@app.command(epilog=f"Example: {COMMAND} worker --heartbeat /tmp/alive")
def worker(alive: Heartbeat = None) -> None:
    """Run the agent alone; start as many of these as you like."""
    settings = get_settings()
    require_url(settings)
    leave(run_worker(settings, alive))


@app.command(epilog=f'Examples: {COMMAND} migrate, {COMMAND} migrate --revision "orders"')
def migrate(
    revision: Annotated[
        str | None, typer.Option(help="Write an empty migration of your own, with this title.")
    ] = None,
) -> None:
    """Bring the database to the schema that this version needs."""
    from ..migrations import create_revision, migrate_now  # not needed to look after a queue

    if revision is not None:
        typer.echo(f"Wrote {create_revision(revision)}")
        return
    with somewhere_to_store() as settings, in_words():
        asyncio.run(check_database(settings))
        applied = migrate_now(settings)
    typer.echo("\n".join(applied) or "The schema is up to date.")


@app.command(epilog=f"Examples: {COMMAND} health, {COMMAND} health --heartbeat /tmp/alive")
def health(
    url: Annotated[str | None, typer.Option(help="Of the service; its own port otherwise.")] = None,
    alive: Heartbeat = None,
) -> None:
    """Ask a running service whether it is healthy, or look for a worker's heartbeat."""
    if alive is not None:
        _look_at(alive)
        return
    import httpx2  # quick to start: this may run every few seconds

    address = url or f"http://127.0.0.1:{get_settings().api_port}/health"
    try:
        response = httpx2.get(address, timeout=3)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        fail(f"{address} does not answer: {error}")
    if not response.is_success:
        fail(f"{address} answered {response.status_code}: {response.text[:500]}")
    typer.echo(response.text)


def _look_at(alive: Path) -> None:
    if said := heartbeat.last_words(alive):
        typer.echo(said)
    if not heartbeat.is_fresh(alive):
        fail(f"{alive} was not written for {heartbeat.STALE_AFTER:.0f} s: no worker is alive.")
    if said and (ill := heartbeat.tasks_that_do_not_run(said)):
        fail(f"The worker is alive and does not work: {'; '.join(ill)}.")
