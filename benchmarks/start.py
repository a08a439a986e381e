"""What a start costs: CPU seconds of `serve` to its first `/ready`, and of commands to their end.

    make render && .tools/bin/uv run --project build/my-agent python -m benchmarks.start

User and system time of the process, the best of several: what else the machine does makes code slower, and never
faster. The schema is current, as at every start but the first.
"""

import argparse
import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, Process
from pathlib import Path
from tempfile import gettempdir

import asyncpg
import httpx2

from my_agent.infra.embedded import embedded_postgres
from my_agent.listening import bound

ROOT = Path(__file__).parent.parent
COMMANDS = (["stats"], ["publish", "http.request", "method=GET", "path=/"])
MODULE = [sys.executable, "-m", "my_agent"]


def used(pid: int) -> float:
    """Return the CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def start(url: str, *args: str) -> Process:
    """Start a process of the project, away from its folder and settings."""
    env = {**os.environ, "DATABASE_URL": url, "TIMERS": "{}"}
    return await asyncio.create_subprocess_exec(
        *MODULE, *args, env=env, cwd=gettempdir(), stdout=DEVNULL, stderr=DEVNULL
    )


async def serve(url: str, *args: str) -> float:
    """Return what `serve` has used at its first `/ready`."""
    with bound("127.0.0.1", 0) as sockets:
        port = sockets[0].getsockname()[1]
    process = await start(url, "serve", "--port", str(port), *args)
    async with httpx2.AsyncClient() as client:
        while process.returncode is None:
            try:
                if (await client.get(f"http://127.0.0.1:{port}/ready")).is_success:
                    break
            except httpx2.TransportError:
                await asyncio.sleep(0.05)
        else:
            raise SystemExit("`serve` ended before it was ready")
    seconds = used(process.pid)
    process.terminate()
    await process.wait()
    return seconds


async def command(url: str, *args: str) -> float:
    """Return what a command uses."""
    before = os.times()
    process = await start(url, *args)
    if await process.wait():
        raise SystemExit(f"{args[0]} failed")
    after = os.times()
    return sum(after[2:4]) - sum(before[2:4])


async def measure(url: str, rounds: int) -> None:
    """Print a table."""
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    await connection.execute("DROP DATABASE IF EXISTS starts WITH (FORCE)")
    await connection.execute("CREATE DATABASE starts")
    await connection.close()
    database = f"{url.rsplit('/', 1)[0]}/starts"
    await serve(database)  # migrates
    seconds: dict[str, list[float]] = {}
    for _ in range(rounds):
        seconds.setdefault("serve", []).append(await serve(database))
        seconds.setdefault("serve --no-worker", []).append(await serve(database, "--no-worker"))
        for args in COMMANDS:
            seconds.setdefault(args[0], []).append(await command(database, *args))
    print("| start | CPU seconds, best | all |\n|---|---|---|")
    for name, each in seconds.items():
        print(f"| `{name}` | {min(each):.2f} | {', '.join(f'{one:.2f}' for one in each)} |")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--url", help="A PostgreSQL server; otherwise one of the benchmark's own.")
    options = parser.parse_args()
    if options.url:
        asyncio.run(measure(options.url, options.rounds))
        return
    with embedded_postgres(ROOT / "build" / "bench") as url:
        asyncio.run(measure(url, options.rounds))


if __name__ == "__main__":
    main()
