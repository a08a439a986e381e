"""What somebody who owns a project does to it before they update it."""

import shutil
from pathlib import Path

from demo.render import IDENTITY, git

AGENT = '''"""Our agent: it acts on every four events of a scope."""

from contextlib import aclosing

from ..core.context import DecisionContext
from ..core.deps import ReflexDeps
from ..infra.locks import ScopedLocks
from ..infra.memory import Memory
from ..infra.store import EventStore

ENOUGH = 4


async def run_agent(store: EventStore, deps: ReflexDeps, locks: ScopedLocks) -> None:
    """Run the agent until its store is drained, or until it is cancelled."""
    memory = Memory(store, locks, DecisionContext.restore)
    async with aclosing(store.subscribe(batch_size=8)) as events:
        async for event, token in events:
            async with memory.settling(token), memory.open(event.scope) as ctx:
                ctx.add(event)
                if len(ctx.events) < ENOUGH:
                    await memory.hold(ctx, token)
                else:
                    output = {"greeting": deps.greeting, "events": len(ctx.events)}
                    await memory.act(ctx, token, trigger="ours", output=output)
'''

LOOP = '''"""Our loop: a task for each event, and no two of one scope at the same time."""

import asyncio
from contextlib import aclosing

import logfire

from ..core.context import DecisionContext
from ..core.deps import ReflexDeps
from ..core.events import Event
from ..core.types import Filter, Scope, Trigger
from ..infra.locks import ScopedLocks
from ..infra.memory import BUSY_DELAY, Memory, OnAction
from ..infra.store import EventStore, Token
from ..infra.tracing import deciding


class NotYet(Exception):
    """Our own error: the event is refused for now."""


async def run_agent_loop(
    store: EventStore,
    deps: ReflexDeps,
    relevant: Filter,
    trigger: Trigger,
    locks: ScopedLocks,
    on_action: OnAction | None = None,
) -> None:
    """Handle the events of this store's subscriber, a scope at a time."""
    memory = Memory(store, locks, DecisionContext.restore, on_action)
    busy: set[Scope] = set()
    refused: set[str] = set()

    def refuse_once(event: Event) -> None:
        if event.id.endswith("-3") and event.id not in refused:
            refused.add(event.id)
            raise NotYet(event.id)

    async def decide(ctx: DecisionContext, event: Event, token: Token) -> None:
        if not relevant(event, ctx):
            logfire.debug("filtered out")
            memory.skip(token)
            return
        ctx.add(event)
        output = await trigger(ctx, deps.within(ctx.scope, memory.action_id(ctx)))
        logfire.debug("decided {fired}", fired=output is not None, size=len(ctx.events))
        if output is None:
            await memory.hold(ctx, token)
        else:
            name = getattr(trigger, "__name__", "trigger")
            action = await memory.act(ctx, token, trigger=name, output=output)
            logfire.info("action {action_id}", action_id=action.id, scope=ctx.scope)

    async def handle(event: Event, token: Token) -> None:
        try:
            refuse_once(event)
            with deciding(event, token):
                async with memory.settling(token), memory.open(event.scope) as ctx:
                    await decide(ctx, event, token)
        except NotYet:
            await store.hand_back(token, delay=BUSY_DELAY)
        finally:
            busy.discard(event.scope)
            store.look_again()

    async with (
        aclosing(store.subscribe(batch_size=deps.settings.agent_prefetch)) as events,
        asyncio.TaskGroup() as group,
    ):
        async for event, token in events:
            if event.scope in busy:
                await store.pass_on(event.scope, token, seconds=BUSY_DELAY, for_room=True)
                continue
            busy.add(event.scope)
            group.create_task(handle(event, token))
'''
"""A loop in the style of 0.1.0, with names that `EventStore` had between 0.1.0 and 0.2.0; all are deprecated."""

OLD_NAMES = {
    "EventStore.pass_on": "defer_scope",
    "EventStore.look_again": "resume_deferred_scopes",
    "EventStore.hand_back": "release",
}
"""The deprecated names that this loop calls, with their successors."""

EVENT = '''class RoomEnteredEvent(BaseEvent):
    """Somebody entered a room."""

    type: Literal["room.entered"] = "room.entered"
    room: str


'''

ROUTE = '''"""The rooms that we know."""

from fastapi import APIRouter

router = APIRouter(tags=["rooms"])


@router.get("")
async def list_rooms() -> list[str]:
    """Return all rooms."""
    return ["kitchen"]
'''

MIGRATION = '''"""Rooms"""

from alembic import op

revision = "a1b2c3d4e5f6"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change."""
    op.execute("""CREATE TABLE rooms (name text PRIMARY KEY)""")


def downgrade() -> None:
    """Take the change back."""
    op.execute("""DROP TABLE rooms""")
'''

TESTS = '''"""Our agent's tests."""

from {package}.agent import ENOUGH
from {package}.core.events import RoomEnteredEvent


def test_a_room_is_an_event() -> None:
    assert RoomEnteredEvent(source="door", room="kitchen").type == "room.entered"
    assert ENOUGH == 4
'''

OURS_IN_TESTS = '''@pytest.fixture
def room() -> str:
    """Return a room of ours."""
    return "kitchen"


'''

ANYWHERE = {
    "src/{package}/runtime.py": [
        ("from .agent import run_agent\n", "from .rooms import close_rooms\n"),
        (
            "        await stack.enter_async_context(model)\n",
            "        stack.callback(close_rooms)  # ours\n",
        ),
    ],
    "src/{package}/config.py": [
        (
            '    version: str = "0.1.0"\n',
            '    rooms: int = 3\n    """The rooms that we have."""\n',
        ),
    ],
    ".env.example": [("VERSION=0.1.0\n", "ROOMS=3\n")],
    "docker/docker-compose.yml": [
        ("      ENVIRONMENT: development\n", '      ROOMS: "5"\n'),
        ("volumes:\n  postgres_data:\n", "  mail_data:\n"),
        ("    restart: unless-stopped\n\n", "  mail:\n    image: mail:1 # ours\n\n"),
    ],
    "compose.prod.yaml": [
        (
            "  openai_api_key: { file: secrets/openai_api_key }\n",
            "  rooms: { file: secrets/rooms }\n",
        ),
    ],
    "README.md": [
        ("# My Agent\n", "\nOurs: call Ann when it breaks.\n"),
        ("## Start it\n", "\nAnn starts it on Mondays.\n"),
    ],
    "tests/conftest.py": [
        ("import gc\n", "import json as json  # ours\n"),
        ("def failure(number: int = 0", OURS_IN_TESTS),
    ],
}
"""Lines in files that have no place for them, each with the line of every release that it follows. Real owners do so.

Those of `failure` come before it.
"""

CHANGED = {
    "compose.prod.yaml": [
        (
            "  secrets: [database_url, api_keys, openai_api_key]\n",
            "  secrets: [database_url, api_keys, openai_api_key, rooms]\n",
        )
    ],
}
"""Lines that owners change, as a comment beside them asks."""

ROOMS = '''"""Our rooms."""


def close_rooms() -> None:
    """Lock the doors."""
'''

LOBBY = '''"""A page that anybody may see."""

from fastapi import APIRouter

from ..deps import ServiceDep

router = APIRouter(tags=["lobby"])


@router.get("")
async def greet(service: ServiceDep) -> str:
    """Return what the resource and the setting of ours are."""
    return f"{service.deps.desk} in {service.settings.lobby}"
'''

DESK = '''"""The desk in our lobby."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from .config import Settings


@asynccontextmanager
async def open_desk(settings: Settings) -> AsyncGenerator[str]:
    """Open the desk for the block."""
    yield f"a desk for {settings.rooms} rooms"
'''

SOURCES = '''"""Our sources."""

from ..core.deps import ReflexDeps
from ..core.events import Event, RoomEnteredEvent
from ..core.sources import Delivery, Poller, Webhook
from ..infra.signatures import GitHub


def entered(delivery: Delivery) -> Event | None:
    """Receive what the door sends."""
    return RoomEnteredEvent(source="door", room=delivery.json["room"])


async def read_doors(deps: ReflexDeps) -> list[Event]:
    """Return who is in a room."""
    return [RoomEnteredEvent(id="1", source=deps.desk, room="hall")]


WEBHOOKS: dict[str, Webhook] = {"door": Webhook(GitHub, entered)}

POLLERS: dict[str, Poller] = {"doors": Poller(1, read_doors)}
'''

TESTS_OF_PLACES = '''"""What we wrote at every place works."""

import asyncio
import hmac

import httpx2
from pydantic import SecretStr

from {package}.api.app import create_app
from {package}.config import Settings
from {package}.infra.store import EventStore

from .conftest import SOON
from .servers import serving_app


async def test_what_we_wrote_at_every_place_works(settings: Settings, store: EventStore) -> None:
    secrets = {{"door": [SecretStr("ours")]}}
    keys = [SecretStr("a key that the lobby needs not")]
    update = {{"webhook_secrets": secrets, "pollers": True, "api_keys": keys}}
    body = b\'{{"room": "kitchen"}}\'
    headers = {{
        "X-GitHub-Delivery": "7",
        "X-Hub-Signature-256": "sha256=" + hmac.digest(b"ours", body, "sha256").hex(),
    }}

    app = create_app(settings.model_copy(update=update))
    async with serving_app(app) as address, httpx2.AsyncClient(base_url=address) as client:
        lobby = await client.get("/lobby")
        rooms = await client.get("/rooms")
        taken = await client.post("/webhooks/door", content=body, headers=headers)
        async with asyncio.timeout(SOON):
            while not await store.find("source:poller:doors:1"):
                await asyncio.sleep(0.1)

    assert lobby.json() == "a desk for 3 rooms in the hall"
    assert rooms.status_code == 401
    assert taken.json()["id"] == "source:webhook:door:7"
'''

DELETED = "docs/patterns.md"
"""A page that the owner does not want, with its test."""


def make_it_mine(project: Path) -> None:
    """Replace the agent, write at the owner's places, add a migration, set settings and commit."""
    package = next((project / "src").iterdir())
    shutil.rmtree(package / "agent")
    write(package / "agent" / "__init__.py", AGENT)
    write(project / "tests" / "test_agent.py", TESTS.format(package=package.name))
    (project / "tests" / "test_red_team.py").unlink(missing_ok=True)  # its tools are gone
    events = package / "core" / "events.py"
    insert(events, "# --- your event types end here ---", EVENT)
    insert(events, "        # --- your members end here", "        RoomEnteredEvent,\n")
    insert(package / "core" / "deps.py", "    # --- your dependencies end here", HELLO)
    routes = package / "api" / "routes"
    write(routes / "rooms.py", ROUTE)
    insert(routes / "__init__.py", "# --- your imports end", "from .rooms import router as rooms\n")
    insert(routes / "__init__.py", "    # --- your routes end", '    "/rooms": rooms,\n')
    insert(project / "pyproject.toml", "    # --- your dependencies end", OURS)
    write(package / "migrations" / "app" / "versions" / "a1b2c3d4e5f6_rooms.py", MIGRATION)
    write(project / ".env", "LOG_LEVEL=WARNING\nEVENT_MAX_ATTEMPTS=7\n")
    (project / DELETED).unlink()
    (project / "tests" / "test_patterns.py").unlink()
    write(package / "rooms.py", ROOMS)
    write_anywhere(project, package.name)
    git("init", "--quiet", at=project)
    commit(project, "Make it ours")


def write_at_new_places(project: Path) -> None:
    """Write at the places that 0.2.0 lacks, after an update, and commit."""
    package = next((project / "src").iterdir())
    config, example = package / "config.py", project / ".env.example"
    routes = package / "api" / "routes"
    insert(config, "    # --- your settings end", '    lobby: str = "the hall"\n')
    insert(example, "# --- your settings end", "LOBBY=the hall\n")
    write(package / "desk.py", DESK)
    insert(package / "resources.py", "# --- your imports end", "from .desk import open_desk\n")
    insert(package / "resources.py", "    # --- your resources end", '    "desk": open_desk,\n')
    insert(package / "core" / "deps.py", "    # --- your dependencies end", '    desk: str = ""\n')
    write(routes / "lobby.py", LOBBY)
    insert(routes / "__init__.py", "# --- your imports end", "from .lobby import router as lobby\n")
    insert(routes / "__init__.py", "    # --- your public routes end", '    "/lobby": lobby,\n')
    write(package / "agent" / "sources.py", SOURCES)
    write(project / "tests" / "test_places.py", TESTS_OF_PLACES.format(package=package.name))
    commit(project, "Write at the new places")


def write_anywhere(project: Path, package: str) -> None:
    """Write into files that have no places for it; a file that a release lacks is left out."""
    for name, additions in ANYWHERE.items():
        path = project / name.format(package=package)
        if path.exists():
            for anchor, text in additions:
                before = anchor.startswith("def ")
                insert(path, anchor, text) if before else follow(path, anchor, text)
    for name, changes in CHANGED.items():
        path = project / name
        if path.exists():
            for old, new in changes:
                assert path.read_text().count(old) == 1
                path.write_text(path.read_text().replace(old, new))


def lines_anywhere(package: str, files: dict[str, str]) -> list[tuple[str, str]]:
    """Return each file in which an owner wrote anywhere, with what they wrote."""
    written = {name: [text for _, text in texts] for name, texts in ANYWHERE.items()}
    for name, changes in CHANGED.items():
        written[name] = written.get(name, []) + [new for _, new in changes]
    return [
        (path, text)
        for name, texts in written.items()
        for path in [name.format(package=package)]
        for text in texts
        if path in files
    ]


HELLO = '    greeting: str = "hello"\n'
OURS = '    "humanize>=4.0",  # ours\n'


def insert(path: Path, before: str, text: str) -> None:
    """Write lines where the template leaves room for them."""
    old = path.read_text()
    assert old.count(before) == 1, f"{path.name} has one place for the owner's lines"
    path.write_text(old.replace(before, text + before))


def follow(path: Path, after: str, text: str) -> None:
    """Write lines after the first of these."""
    old = path.read_text()
    assert after in old, f"{path.name} has {after!r}"
    path.write_text(old.replace(after, after + text, 1))


def write(path: Path, text: str) -> None:
    """Write a file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def commit(project: Path, message: str) -> None:
    """Commit everything."""
    git("add", "--all", at=project)
    git(*IDENTITY, "commit", "--quiet", "--allow-empty", "--message", message, at=project)
