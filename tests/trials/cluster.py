"""One PostgreSQL for the tests of all projects: `python cluster.py FOLDER`, with a project's `src` to import from.

It prints its URL and runs until its standard input ends. Nothing is flushed to disk, which only a crash
of the machine would notice; tests that end a server have one of their own.
"""

import asyncio
import sys
from pathlib import Path

import asyncpg

from my_agent.infra.embedded import cluster_of, embedded_postgres

SETTINGS = {"fsync": "off", "full_page_writes": "off", "max_connections": "400"}


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
    with embedded_postgres(folder) as url:
        asyncio.run(tune(url))
        cluster = cluster_of(folder)
        port = cluster.running_port()
        cluster.stop()
        cluster.start(str(port))
        print(url, flush=True)
        sys.stdin.read()
    cluster_of(folder).remove()


if __name__ == "__main__":
    main()
