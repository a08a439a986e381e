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
    git("init", "--quiet", at=project)
    commit(project, "Make it ours")


HELLO = '    greeting: str = "hello"\n'
OURS = '    "humanize>=4.0",  # ours\n'


def insert(path: Path, before: str, text: str) -> None:
    """Write lines where the template leaves room for them."""
    old = path.read_text()
    assert old.count(before) == 1, f"{path.name} has one place for the owner's lines"
    path.write_text(old.replace(before, text + before))


def write(path: Path, text: str) -> None:
    """Write a file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def commit(project: Path, message: str) -> None:
    """Commit everything."""
    git("add", "--all", at=project)
    git(*IDENTITY, "commit", "--quiet", "--allow-empty", "--message", message, at=project)
