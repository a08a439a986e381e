"""Starting processes: the server, the worker, and on a bare machine the database under them.

Whatever can be wrong is found before anything is served, and said in one sentence.
"""

import asyncio
import os
import signal
import socket
import sys
import tomllib
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import uvicorn
from uvicorn.supervisors import ChangeReload

from . import COMMAND, TITLE
from .config import Settings, get_settings
from .infra.database import StartupError

APP = f"{__name__.partition('.')[0]}.api.app:app"
GOODBYE = 5  # seconds that open connections get when the server stops


def run_server(host: str | None, port: int | None, *, reload: bool) -> None:
    """Check everything that can be wrong, take the port, and only then start the server."""
    from .runtime import prepare  # takes seconds, which other commands need not wait for

    settings = get_settings()
    asyncio.run(prepare(settings))
    with _bound(host or settings.api_host, settings.api_port if port is None else port) as sock:
        config = uvicorn.Config(
            APP,
            log_level="warning",
            reload=reload,
            reload_dirs=[str(Path(__file__).parent)] if reload else None,
            ws_max_size=4 * settings.api_max_body_bytes,  # the route refuses what is too large
            timeout_graceful_shutdown=GOODBYE,
        )
        address, taken = sock.getsockname()[:2]
        print(f"{TITLE}: http://{address}:{taken} (docs at /docs)", file=sys.stderr)
        server = uvicorn.Server(config)
        # The server raises the signal that stopped it once more when it is done.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _already_stopping)
        if reload:
            ChangeReload(config, target=server.run, sockets=[sock]).run()
        else:
            server.run(sockets=[sock])


def _already_stopping(*_: object) -> None:
    """Take note of a signal that was obeyed already."""


@contextmanager
def _bound(host: str, port: int) -> Generator[socket.socket]:
    try:
        sock = socket.create_server((host, port), backlog=2048)
    except OSError as error:
        raise StartupError(
            f"Port {port} of {host} cannot be used ({error.strerror}): stop what uses it, or choose"
            " another with --port or API_PORT."
        ) from error
    with sock:
        sock.set_inheritable(True)
        yield sock


async def run_worker(settings: Settings) -> None:
    """Run the agent until the process is asked to stop."""
    from .runtime import open_service  # takes seconds, which other commands need not wait for

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with open_service(settings, worker=True):
        await stop.wait()


@contextmanager
def somewhere_to_store() -> Generator[Settings]:
    """Give settings with a database: the given one, or in development the project's own."""
    settings = get_settings()
    if settings.database_url is not None or settings.environment == "production":
        require_url(settings)
        yield settings
        return
    with ExitStack() as stack:
        for name, url in _own_servers(stack):
            os.environ[name] = url  # for the processes that reloading starts
        get_settings.cache_clear()
        yield get_settings()


def _own_servers(stack: ExitStack) -> Iterator[tuple[str, str]]:
    """Start what this service needs and was not told where to find."""
    try:
        from .infra.embedded import embedded_postgres
    except ImportError as error:
        raise StartupError(
            "DATABASE_URL is not set: set it, or install the development dependencies for a server"
            " of the project's own."
        ) from error
    yield "DATABASE_URL", stack.enter_context(embedded_postgres(_project()))


def _project() -> Path:
    """Return the folder of the project that this is called in."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        manifest = folder / "pyproject.toml"
        if manifest.exists() and "project" in tomllib.loads(manifest.read_text()):
            return folder
    return here


def require_url(settings: Settings) -> None:
    """Raise `StartupError` if no database is named."""
    if settings.database_url is None:
        raise StartupError(
            f"DATABASE_URL is not set: set it, or run `{COMMAND} dev`, which brings its own server."
        )
