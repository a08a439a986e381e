"""Commands that run the service, migrate its database and check its health."""

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer

from .. import COMMAND
from ..config import Settings, get_settings
from ..development_database import ensure_database, require_url
from ..infra.database import check_database
from ..infra.process import heartbeat
from ..infra.process.shutdown import exit_process
from ..listening import urls_to_try
from .output import confirm, echo, fail
from .store import translate_errors

app = typer.Typer()

Host = Annotated[str | None, typer.Option(help="The address to listen on.")]
Port = Annotated[
    int | None, typer.Option(min=0, max=65_535, help="The port to listen on; 0 for any free port.")
]
Heartbeat = Annotated[
    Path | None,
    typer.Option("--heartbeat", help="A file to which a worker writes its state."),
]


@app.command(epilog=f"Example: {COMMAND} dev --port 8001")
def dev(
    host: Host = None,
    port: Port = None,
    reload: Annotated[bool, typer.Option(help="Restart when code changes.")] = True,
) -> None:
    """Run the service for development, with a database of its own unless DATABASE_URL is set."""
    from ..serving import run_server  # loads the server, which other commands do not need

    with ensure_database():
        code = run_server(host, port, reload=reload)
    exit_process(code)


@app.command(epilog=f"Example: {COMMAND} serve --host 0.0.0.0 --no-worker")
def serve(
    host: Host = None,
    port: Port = None,
    reload: Annotated[bool | None, typer.Option(help="Restart when code changes.")] = None,
    worker: Annotated[bool, typer.Option(help="Also run the agent in this process.")] = True,
) -> None:
    """Run the API and the agent, on the database of DATABASE_URL."""
    from ..serving import run_server

    if not worker:
        os.environ["API_WORKER"] = "false"
        get_settings.cache_clear()
    require_url(get_settings())
    reload = get_settings().api_reload if reload is None else reload
    exit_process(run_server(host, port, reload=reload))


@app.command(epilog=f"Example: {COMMAND} worker --heartbeat /tmp/alive")
def worker(heartbeat_file: Heartbeat = None) -> None:
    """Run the agent without the API; several workers can run at once."""
    from ..serving import run_worker

    settings = get_settings()
    require_url(settings)
    exit_process(run_worker(settings, heartbeat_file))


@app.command(
    epilog=f'Examples: {COMMAND} migrate, {COMMAND} migrate --revision "orders", {COMMAND} migrate --down'
)
def migrate(
    revision: Annotated[
        str | None, typer.Option(help="Create an empty migration of your own, with this title.")
    ] = None,
    down: Annotated[
        bool, typer.Option("--down", help="Revert the newest migration of your own.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
) -> None:
    """Migrate the database to the schema of this version."""
    from ..migrations import create_revision, migrate_now  # loads Alembic

    if revision is not None and down:
        raise typer.BadParameter("give either --revision or --down")
    if revision is not None:
        path = create_revision(revision)
        echo(f"Wrote {path}: it is applied as soon as its upgrade() does something")
        return
    with ensure_database() as settings, translate_errors():
        asyncio.run(check_database(settings.owner))
        if down:
            _revert(settings, yes=yes)
            return
        applied = migrate_now(settings, lambda sentence: echo(sentence, err=True))
    echo(*(applied or ["The schema is up to date."]))


def _revert(settings: Settings, *, yes: bool) -> None:
    from ..migrations import newest_revision, take_revision_back

    revision = asyncio.run(newest_revision(settings))
    name = f"{revision.id} ({revision.title})"
    if not yes:
        confirm(f"Revert {name}, with all data in its tables?")
    asyncio.run(take_revision_back(settings, revision))
    echo(
        f"Reverted {name}. Now edit or delete {revision.path}: `{COMMAND} dev` applies it again when it"
        f" has changed, `{COMMAND} migrate` at once"
    )


@app.command(epilog=f"Examples: {COMMAND} health, {COMMAND} health --heartbeat /tmp/alive")
def health(
    url: Annotated[
        str | None, typer.Option(help="The URL of the service; by default its own port.")
    ] = None,
    heartbeat_file: Heartbeat = None,
) -> None:
    """Check the health of a running service, or the heartbeat of a worker."""
    if heartbeat_file is not None:
        _check_heartbeat(heartbeat_file)
        return
    settings = get_settings()
    own = [f"{each}/health" for each in urls_to_try(settings.api_host, settings.api_port)]
    echo(_first_response([url] if url else own))


def _first_response(addresses: list[str]) -> str:
    """Return the response of the first service that listens at one of these addresses."""
    import httpx2  # here, for a quick start: this may run every few seconds

    refused: list[str] = []
    for address in addresses:
        try:
            response = httpx2.get(address, timeout=3)
        except httpx2.ConnectError as error:  # `serve --host` may have named another address
            refused.append(f"{address} does not answer: {error}")
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            fail(f"{address} does not answer: {error}")
        else:
            if not response.is_success:
                fail(f"{address} answered {response.status_code}: {response.text[:500]}")
            return response.text
    fail(refused[0])


def _check_heartbeat(heartbeat_file: Path) -> None:
    if state := heartbeat.read_heartbeat(heartbeat_file):
        echo(state)
    if not heartbeat.is_fresh(heartbeat_file):
        fail(
            f"{heartbeat_file} was not written for {heartbeat.STALE_AFTER:.0f} s: no worker is alive."
        )
    if state and (stopped := heartbeat.stopped_tasks(state)):
        fail(f"The worker is alive and does not work: {'; '.join(stopped)}.")
