"""One PostgreSQL for the tests of all projects: `python cluster.py FOLDER`, with a project's `src` to import from.

It prints its URL and runs until its standard input ends. It lives in memory where there is room, and flushes
nothing to disk, which only a crash of the machine would notice: thousands of databases that come and go
cost file systems more than they cost PostgreSQL. Tests that end a server have one of their own.
"""

import asyncio
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import asyncpg

from my_agent.infra.process.embedded import cluster_of, embedded_postgres

SETTINGS = {"fsync": "off", "full_page_writes": "off", "max_connections": "400"}


MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of its own is made there
ROOM = 4_000_000_000  # bytes that must be free there


@contextmanager
def in_memory(data: Path) -> Generator[None]:
    """Keep a folder in memory for the block, if there is room."""
    if not MEMORY.is_dir() or shutil.disk_usage(MEMORY).free < ROOM:
        yield
        return
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        Path(folder).chmod(0o755)
        subprocess.run(["cp", "--archive", data, folder], check=True)
        shutil.rmtree(data)
        data.symlink_to(Path(folder) / data.name)
        yield
        data.unlink()


def forget(folder: Path) -> None:
    """Clear away what a run left that was killed: its server, if that still runs, and what it had in memory."""
    cluster = cluster_of(folder)
    if cluster.data.is_symlink():
        if cluster.data.exists() and cluster.running_port() is not None:
            cluster.stop("immediate")
        shutil.rmtree(cluster.data.resolve().parent, ignore_errors=True)
        cluster.data.unlink()


async def tune(url: str) -> None:
    """Write settings that the next start reads."""
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    for name, value in SETTINGS.items():
        await connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
    await connection.close()


def main() -> None:
    """Run the server for as long as somebody wants it."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    forget(folder)
    with embedded_postgres(folder) as url:
        asyncio.run(tune(url))
        cluster = cluster_of(folder)
        port = cluster.running_port()
        cluster.stop()
        with in_memory(cluster.data):
            cluster.start(str(port))
            print(url, flush=True)
            sys.stdin.read()
            cluster.stop()
    cluster_of(folder).remove()


if __name__ == "__main__":
    main()
