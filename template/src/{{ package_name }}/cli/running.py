"""Commands that run the service, or make it ready to run."""

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer

from .. import COMMAND
from ..config import Settings, get_settings
from ..infra import heartbeat
from ..infra.database import check_database
from ..infra.ending import leave
from ..listening import urls_to_try
from ..local import require_url, somewhere_to_store
from .opening import in_words
from .output import fail, say

app = typer.Typer()

Host = Annotated[str | None, typer.Option(help="Address to listen on.")]
Port = Annotated[
    int | None, typer.Option(min=0, max=65_535, help="Port to listen on; 0 for any that is free.")
]
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
    from ..serving import run_server  # the server and its frameworks: other commands need none

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
    from ..serving import run_server

    if not worker:
        os.environ["API_WORKER"] = "false"
        get_settings.cache_clear()
    require_url(get_settings())
    reload = get_settings().api_reload if reload is None else reload
    leave(run_server(host, port, reload=reload))


@app.command(epilog=f"Example: {COMMAND} worker --heartbeat /tmp/alive")
def worker(alive: Heartbeat = None) -> None:
    """Run the agent alone; start as many of these as you like."""
    from ..serving import run_worker

    settings = get_settings()
    require_url(settings)
    leave(run_worker(settings, alive))


@app.command(
    epilog=f'Examples: {COMMAND} migrate, {COMMAND} migrate --revision "orders", {COMMAND} migrate --down'
)
def migrate(
    revision: Annotated[
        str | None, typer.Option(help="Write an empty migration of your own, with this title.")
    ] = None,
    down: Annotated[
        bool, typer.Option("--down", help="Take back the newest migration of your own.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Bring the database to the schema that this version needs."""
    from ..migrations import create_revision, migrate_now  # not needed to look after a queue

    if revision is not None and down:
        raise typer.BadParameter("give --revision or --down, one of them")
    if revision is not None:
        path = create_revision(revision)
        say(f"Wrote {path}: it is applied as soon as its upgrade() does something")
        return
    with somewhere_to_store() as settings, in_words():
        asyncio.run(check_database(settings))
        if down:
            _take_back(settings, yes=yes)
            return
        applied = migrate_now(settings, lambda sentence: say(sentence, err=True))
    say("\n".join(applied) or "The schema is up to date.")


def _take_back(settings: Settings, *, yes: bool) -> None:
    from ..migrations import newest_revision, take_revision_back

    revision = asyncio.run(newest_revision(settings))
    name = f"{revision.id} ({revision.title})"
    if not yes:
        typer.confirm(f"Take back {name}, with what its tables hold?", abort=True)
    asyncio.run(take_revision_back(settings, revision))
    say(
        f"Took back {name}. Now edit or delete {revision.path}: `{COMMAND} dev` applies it again when it"
        f" has changed, `{COMMAND} migrate` at once"
    )


@app.command(epilog=f"Examples: {COMMAND} health, {COMMAND} health --heartbeat /tmp/alive")
def health(
    url: Annotated[str | None, typer.Option(help="Of the service; its own port otherwise.")] = None,
    alive: Heartbeat = None,
) -> None:
    """Ask a running service whether it is healthy, or look for a worker's heartbeat."""
    if alive is not None:
        _look_at(alive)
        return
    settings = get_settings()
    own = [f"{each}/health" for each in urls_to_try(settings.api_host, settings.api_port)]
    say(_answer([url] if url else own))


def _answer(addresses: list[str]) -> str:
    """Return the answer of the first service that listens at one of these addresses."""
    import httpx2  # quick to start: this may run every few seconds

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


def _look_at(alive: Path) -> None:
    if said := heartbeat.last_words(alive):
        say(said)
    if not heartbeat.is_fresh(alive):
        fail(f"{alive} was not written for {heartbeat.STALE_AFTER:.0f} s: no worker is alive.")
    if said and (ill := heartbeat.tasks_that_do_not_run(said)):
        fail(f"The worker is alive and does not work: {'; '.join(ill)}.")
