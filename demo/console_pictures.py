"""`make picture`, second part: the console's screens with real traffic, as docs/console/*.png.

It needs Chromium, and skips with a sentence where none is installed. All screens, in light, in dark and on a phone,
are in build/console/ for a look; those that the documentation shows are small files with a palette.
"""

import asyncio
import json
import shutil
import subprocess
import sys
from contextlib import suppress
from importlib import import_module
from typing import Any

import httpx2

from .__main__ import DemoFailed, install, start, stop
from .pretended_model import pretending
from .render import BUILD, REPOSITORY, render, snapshot

PROJECT = BUILD / "pictured"
ALL, SHOWN = BUILD / "console", REPOSITORY / "docs" / "console"
KEY = "only-for-pictures-of-the-demo"
PICTURES = {
    "scope-light": "scope",
    "scope-dark": "scope-dark",
    "now": "now",
    "decision": "decision",
    "dead-letters": "dead-letters-dark",
    "events": "events",
    "timers": "timers",
    "phone": "scope-phone",
}
"""What the documentation shows, by the name of the picture that it is made of."""
MAX_BYTES = 150_000  # of a picture in the repository
COLOURS = 256
LOOKS: dict[str, dict[str, Any]] = {
    "": {"viewport": {"width": 1200, "height": 860}},
    "-dark": {"viewport": {"width": 1200, "height": 860}, "color_scheme": "dark"},
    "-phone": {"viewport": {"width": 375, "height": 812}, "device_scale_factor": 2},
}
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 60.0  # seconds until the traffic has come to something
FAILURES = 5  # as many as the example agent's threshold

FAILING = {
    "shop/checkout": ("checkout", "payment {}: the card processor timed out after 30 s"),
    "ws:ada": ("checkout", "checkout {} failed: the address is not valid"),
    "warehouse/7": ("labels", "parcel {}: the label printer has failed"),
    "office": ("ledger", "import {} of the bank statement failed: line 17 has no date"),
    "ci/4711": ("ci", "flaky build {}: the test suite failed"),
}
"""Which service of which scope reports which error."""
DEAD = 5  # dead letters that these make
UNDER_WAY = "ci/4711"
"""The scope of a decision that is under way while the pictures are taken; no other decision begins meanwhile."""
REQUESTS = ("GET /orders/{}", "POST /orders", "GET /orders/{}/invoice", "PATCH /carts/{}")

CLEAN_UP = """
from pathlib import Path
from my_agent.infra.process.embedded import cluster_of

cluster_of(Path.cwd()).remove()
"""


async def main() -> None:
    """Render a project, send its service traffic, and take pictures of its console."""
    if (program := next(filter(None, map(shutil.which, PROGRAMS)), None)) is None:
        print("No pictures of the console: no Chromium is installed.")
        return
    shutil.rmtree(PROJECT / "src", ignore_errors=True)
    render(PROJECT, snapshot(BUILD / "template"))
    await install(PROJECT)
    clean_up()
    with pretending() as model:
        service, address, _ = await start(PROJECT, **environment(model.address))
        try:
            action = await send(address)
            await take(address, program, paths(action))
        finally:
            model.stopped.set()
            await stop(service)
            clean_up()
    publish()


def environment(model: str) -> dict[str, str]:
    """Return the settings of the service."""
    roles = ["read", "operate", "publish"]
    return {
        "API_CLIENTS": json.dumps({"ann": {"key": KEY, "roles": roles}}),
        "CONSOLE_TRACE_URL": "https://traces.example.com/{trace_id}",
        "DEFAULT_MODEL": "openai-chat:gpt-5-mini",
        "EFFECTS": "off",
        "EVENT_MAX_ATTEMPTS": "2",
        "EVENT_RETRY_BASE_DELAY": "0.2",
        "MODEL_COST_PER_HOUR": "0.05",
        "MODEL_TOKENS_PER_HOUR": "50000",
        "OPENAI_API_KEY": "not-needed",
        "OPENAI_BASE_URL": model,
        "TIMERS": json.dumps({"minute": 60, "nightly": "0 3 * * *"}),
    }


async def send(address: str) -> str:
    """Send traffic, and return the id of the action on what the card processor did."""
    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx2.AsyncClient(base_url=address, headers=headers) as client:
        for number in range(24):
            method, path = REQUESTS[number % 4].format(2_000 + number).split()
            event = {"type": "http.request", "method": method, "path": path}
            await post(client, event | {"scope": f"shop/{('orders', 'carts')[number % 2]}"})
        for number in range(1, FAILURES + 1):
            for scope in [*FAILING][:-1]:
                await fail(client, scope, number)
                await asyncio.sleep(0.1)
        for number in range(6, 9):
            await fail(client, "warehouse/7", number)
        action = await until_acted(client)
        for number in range(6, 9):
            await fail(client, "shop/checkout", number)
        await asyncio.sleep(1)  # they are held
        for number in range(1, FAILURES + 1):
            await fail(client, UNDER_WAY, number)
        return action


async def fail(client: httpx2.AsyncClient, scope: str, number: int) -> None:
    """Report a failure in a scope."""
    service, message = FAILING[scope]
    event = {"type": "error.reported", "service": service, "scope": scope}
    await post(client, event | {"message": message.format(4_100 + number)})


async def post(client: httpx2.AsyncClient, event: dict[str, str]) -> None:
    """Publish an event."""
    response = await client.post("/events", json=event | {"source": "shop"})
    if response.status_code != 200:
        raise DemoFailed(f"the service refused an event: {response.text}")


async def until_acted(client: httpx2.AsyncClient) -> str:
    """Wait until the agent has acted and given up what it should; return the id of the action in the shop."""
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            while True:
                dead = (await client.get("/events/dlq")).json()["count"]
                query = {"type": "agent.action", "scope": "shop/checkout"}
                acted = (await client.get("/events", params=query)).json()["events"]
                if dead >= DEAD and acted:
                    return str(acted[0]["id"])
                await asyncio.sleep(0.2)
    raise DemoFailed(f"the agent did not act within {PATIENCE:g} s.")


def paths(action: str) -> dict[str, str]:
    """Return the addresses of the screens, by their names."""
    return {
        "now": "/console",
        "scopes": "/console/scopes",
        "scope": "/console/scope?name=shop%2Fcheckout",
        "decision": f"/console/decision?id={action}",
        "decisions": "/console/decisions",
        "dead-letters": "/console/dead-letters",
        "events": "/console/events",
        "event": f"/console/event?id={action}",
        "timers": "/console/timers",
        "publish": "/console/do/publish?type=error.reported",
        "retry": "/console/do/retry?subscriber=agent",
        "erase": "/console/do/erase?scope=shop%2Fcheckout",
        "login": "/console/login",
    }


async def take(address: str, program: str, paths: dict[str, str]) -> None:
    """Take a picture of each screen, in each look."""
    playwright: Any = import_module("playwright.async_api")
    shutil.rmtree(ALL, ignore_errors=True)
    async with playwright.async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=program)
        for suffix, look in LOOKS.items():
            context = await browser.new_context(base_url=address, **look)
            page = await context.new_page()
            await page.goto("/console/login")
            await page.screenshot(path=ALL / f"login{suffix}.png")
            await page.get_by_label("Key").fill(KEY)
            await page.keyboard.press("Enter")
            await page.wait_for_url("**/console")
            for name, path in paths.items():
                if name != "login":
                    await page.goto(path)
                    await page.wait_for_timeout(400)  # until live pages are connected
                    await page.screenshot(path=ALL / f"{name}{suffix}.png")
            await context.close()
        await browser.close()


def publish() -> None:
    """Write the pictures of the documentation, each with a palette."""
    image: Any = import_module("PIL.Image")
    SHOWN.mkdir(exist_ok=True)
    for name, taken in PICTURES.items():
        target = SHOWN / f"{name}.png"
        with image.open(ALL / f"{taken}.png") as picture:
            picture.convert("RGB").quantize(COLOURS).save(target, optimize=True)
        if (size := target.stat().st_size) > MAX_BYTES:
            raise DemoFailed(f"{target.name} has {size:,} bytes, more than {MAX_BYTES:,}.")
        print(f"Drew {target.relative_to(REPOSITORY)}, {size:,} bytes")


def clean_up() -> None:
    """Delete the database of the project."""
    python = PROJECT / ".venv" / "bin" / "python"
    subprocess.run([python, "-c", CLEAN_UP], cwd=PROJECT, check=True)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except DemoFailed as error:
        print(f"pictures: {error}", file=sys.stderr)
        raise SystemExit(1) from error
