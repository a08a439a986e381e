"""`make demo`: render the defaults, start the service, send it failures and show what it does.

On a terminal the service stays up until interrupted; otherwise everything that was started is
stopped again, and the exit code says whether the agent acted.
"""

import asyncio
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx2
from websockets.asyncio.client import ClientConnection, connect

from .ports import free_port
from .render import BUILD, REPOSITORY
from .render import main as render_defaults
from .timeline import Timeline

PROJECT = BUILD / "my-agent"
UV = REPOSITORY / ".tools" / "bin" / "uv"
CLIENT = "ada"
FAILURES = 5  # as many as the example agent's threshold
START_PATIENCE = 90.0  # seconds; the first start sets up a database
ACT_PATIENCE = 30.0  # seconds


class DemoFailed(Exception):
    """The demo did not show what it promises; the message says why."""


async def main() -> None:
    """Show everything, from an empty folder to an action."""
    print("Rendering the defaults with Copier ...", flush=True)
    render_defaults()
    print("Installing what the service needs ...", flush=True)
    await install()
    service, address, timeline = await start()
    try:
        print(f"The service runs at {address} on a PostgreSQL of its own.\n", flush=True)
        await act(address, timeline)
        if sys.stdout.isatty():
            await stay(address)
    finally:
        await stop(service)


async def install(project: Path = PROJECT) -> None:
    """Give a rendered project an environment of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    sync = await asyncio.create_subprocess_exec(UV, "sync", "--quiet", cwd=project, env=environment)
    if await sync.wait() != 0:
        raise DemoFailed("uv could not install the project's dependencies; see its message above.")


async def start(
    project: Path = PROJECT, **settings: str
) -> tuple[asyncio.subprocess.Process, str, Timeline]:
    """Start the service on a free port and wait until it is ready."""
    port, timeline = free_port(), Timeline()
    service = await asyncio.create_subprocess_exec(
        project / ".venv" / "bin" / "my-agent",
        *("dev", "--no-reload", "--port", str(port)),
        cwd=project,
        env={
            **os.environ,
            "LOG_FORMAT": "json",
            "LOG_LEVEL": "DEBUG",
            "DEFAULT_MODEL": "offline",
            **settings,
        },
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,  # an interrupt is for the demo, which then stops the service
        limit=2**22,
    )
    timeline.listen(service)
    address = f"http://127.0.0.1:{port}"
    try:
        await until_ready(service, address, timeline)
    except BaseException:
        await stop(service)
        raise
    return service, address, timeline


async def until_ready(
    service: asyncio.subprocess.Process, address: str, timeline: Timeline
) -> None:
    """Wait until the service answers that it is ready."""
    deadline = time.monotonic() + START_PATIENCE
    async with httpx2.AsyncClient(base_url=address) as client:
        while time.monotonic() < deadline:
            if service.returncode is not None:
                await asyncio.sleep(0.2)  # its last words are still on their way
                raise DemoFailed(f"the service ended: {timeline.last_words()}")
            with suppress(httpx2.TransportError):
                if (await client.get("/ready")).is_success:
                    return
            await asyncio.sleep(0.1)
    raise DemoFailed(
        f"the service was not ready after {START_PATIENCE:g} s: {timeline.last_words()}"
    )


async def act(address: str, timeline: Timeline) -> None:
    """Send failures by both doors, wait for the agent's answers and print what happened."""
    async with (
        httpx2.AsyncClient(base_url=address) as client,
        connect(f"{address.replace('http', 'ws')}/ws/{CLIENT}") as client_socket,
        client.stream("GET", "/events/stream?type=agent.action&scope=main") as stream,
    ):
        lines = stream.aiter_lines()
        await send(client, client_socket, timeline)
        try:
            async with asyncio.timeout(ACT_PATIENCE):
                async for line in lines:
                    if line.startswith("data: "):
                        timeline.alert(line.removeprefix("data: "))
                        break
                while not timeline.answered(await client_socket.recv()):
                    pass
        except TimeoutError as error:
            timeline.print()
            raise DemoFailed(f"the agent did not act within {ACT_PATIENCE:g} s.") from error
    await asyncio.sleep(0.3)  # the last log lines
    timeline.print()


async def send(
    client: httpx2.AsyncClient, client_socket: ClientConnection, timeline: Timeline
) -> None:
    """Report failures: a burst by HTTP, and five messages of one client by WebSocket."""
    for number in range(1, FAILURES + 1):
        event = {
            "type": "error.reported",
            "source": "demo",
            "service": "billing",
            "message": f"payment {number}: connection refused",
        }
        timeline.sent("main", f"error.reported by HTTP: {event['message']}")
        response = await client.post("/events", json=event)
        if response.status_code != 200:
            raise DemoFailed(f"the service refused an event: {response.text}")
    for number in range(1, FAILURES + 1):
        content = f"checkout {number} failed"
        timeline.sent(f"ws:{CLIENT}", f"ws.message from {CLIENT}: {content}")
        await client_socket.send(f'{{"content": "{content}"}}')


async def stay(address: str) -> None:
    """Leave the service running until the person at the terminal has seen enough."""
    print(f"\nIt stays up: {address}/docs  {address}/ready  {address}/events/stream")
    print(f"Its code is in {PROJECT.relative_to(REPOSITORY)}. Press Ctrl-C to stop it.", flush=True)
    enough = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, enough.set)
    await enough.wait()


async def stop(service: asyncio.subprocess.Process) -> None:
    """Stop the service, and with it the database that it started."""
    if service.returncode is None:
        service.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(service.wait(), 40)
        except TimeoutError:
            service.kill()
            await service.wait()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except DemoFailed as error:
        print(f"demo: {error}", file=sys.stderr)
        raise SystemExit(1) from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None
